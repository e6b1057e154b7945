"""The engine: encodes and searches for a batch of requests, with few compiled shapes.

JAX compiles a program for every shape. Here the number of texts is rounded up to one of
`TEXT_COUNTS`, their length to one of `jaxir.retrieval.encoding.WIDTHS`, and the number of results
to one of `RESULT_COUNTS`; `warm_up` compiles them all before the first request comes.

Dimension key: T texts, D embedding width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import jax
import numpy as np
from jaxtyping import Float

from jaxir.data.tokens import Tokens
from jaxir.retrieval.encoding import WIDTHS
from jaxir.retrieval.index import CACHED_LANGUAGES, Index, Result
from jaxir.retriever import Retriever

TEXT_COUNTS = (1, 8, 32)  # texts of a call of the encoder
QUERY_COUNTS = (8, 16, 32)  # the index rounds the queries of a search up to one of these
RESULT_COUNTS = (10, 100)
# To settle ties at the last result, a search doubles k until they end. In an index of more passages
# than this, queries that tie everywhere would compile many more shapes than requests need.
TIED_PASSAGES = 65_536


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """A search for the k best passages of one query."""

    texts: tuple[str]
    k: int
    language: str | None  # of the passages; None: all


@dataclass(frozen=True, slots=True)
class EncodeRequest:
    """Texts to encode."""

    texts: tuple[str, ...]
    kind: str  # query or passage


EngineRequest: TypeAlias = SearchRequest | EncodeRequest
Answer: TypeAlias = list[Result] | Float[np.ndarray, "T D"]


class Engine:
    """A model and an index of its embeddings; used by one thread.

    Args:
        retriever: the model.
        index: the passages.
    """

    def __init__(self, retriever: Retriever, index: Index):
        # makes all texts of a call one batch, whatever their length, so that its shape is known
        longest = max(retriever.model.max_query_tokens, retriever.model.max_passage_tokens)
        retriever.batch_tokens = max(
            retriever.batch_tokens, TEXT_COUNTS[-1] * longest * len(jax.devices())
        )
        self.retriever, self.index = retriever, index
        self.languages = index.languages

    def warm_up(self) -> int:
        """Compile all shapes that requests can have, and return their number."""
        shapes = [(count, width) for width in self._widths() for count in TEXT_COUNTS]
        for count, width in shapes:
            self._encode_padding(count, width)
        # the index caches this many selections by language, None among them
        languages = [None, *[name for name in self.languages if name][: CACHED_LANGUAGES - 1]]
        searches = [(q, k, x) for x in languages for k in RESULT_COUNTS for q in QUERY_COUNTS]
        for count, k, language in searches:
            passages = len(self.index) if language is None else self.languages[language]
            # zeros score equally everywhere, which also compiles how ties are settled
            queries = np.zeros((count, self.retriever.width), np.float32)
            if passages > TIED_PASSAGES:
                queries += np.random.default_rng(0).standard_normal(queries.shape, np.float32)
            self.index.search_embeddings(queries, k, language=language)
        return len(shapes) + len(searches)

    def _widths(self) -> list[int]:
        model = self.retriever.model
        limits = {model.max_query_tokens, model.max_passage_tokens}
        return sorted(limits | {width for width in WIDTHS if width < max(limits)})

    def _encode_padding(self, count: int, width: int) -> None:
        """Encode `count` texts of `width` padding tokens."""
        pad_id = self.retriever.model.tokenizer.pad_token_id
        zeros = np.zeros(count, np.int64)
        ids = np.full(width, pad_id, np.int32)
        # every text is the same slice of the one segment, from 0 to `width`
        tokens = Tokens((ids,), zeros, zeros, zeros + width, (), (), pad_id)
        self.retriever.encode_tokens(tokens, width)

    def answer(self, batch: Sequence[EngineRequest]) -> list[Answer]:
        """Answer requests: results of a search, embeddings of texts to encode."""
        embeddings: dict[int, Float[np.ndarray, "T D"]] = {}  # by the request's position
        for kind in ("query", "passage"):
            chosen = [i for i, request in enumerate(batch) if _kind(request) == kind]
            rows = self._encode(kind, [text for i in chosen for text in batch[i].texts])
            ends = np.cumsum([len(batch[i].texts) for i in chosen])
            embeddings |= zip(chosen, np.split(rows, ends[:-1])) if chosen else ()
        answers: list[Answer] = [embeddings[i] for i in range(len(batch))]
        for i, results in self._search(batch, embeddings):
            answers[i] = results
        return answers

    def _encode(self, kind: str, texts: list[str]) -> Float[np.ndarray, "T D"]:
        encode = self.retriever.encode_queries
        if kind == "passage":
            encode = self.retriever.encode_passages
        blocks = [np.empty((0, self.retriever.width), np.float32)]
        for first in range(0, len(texts), TEXT_COUNTS[-1]):
            block = texts[first : first + TEXT_COUNTS[-1]]
            count = next(count for count in TEXT_COUNTS if count >= len(block))
            # copies of the shortest text make the batch no wider
            padding = [min(block, key=len)] * (count - len(block))
            blocks.append(encode([*block, *padding])[: len(block)])
        return np.concatenate(blocks)

    def _search(
        self, batch: Sequence[EngineRequest], embeddings: dict[int, Float[np.ndarray, "T D"]]
    ) -> list[tuple[int, list[Result]]]:
        """Results of the searches, each with its position in the batch."""
        # searches of the same language and the same rounded k go through the index together
        searches = [(i, x) for i, x in enumerate(batch) if isinstance(x, SearchRequest)]
        groups: dict[tuple[str | None, int], list[tuple[int, SearchRequest]]] = {}
        for i, request in searches:
            k = next(count for count in RESULT_COUNTS if count >= request.k)
            groups.setdefault((request.language, k), []).append((i, request))
        answers: list[tuple[int, list[Result]]] = []
        for (language, k), group in groups.items():
            for first in range(0, len(group), QUERY_COUNTS[-1]):
                block = group[first : first + QUERY_COUNTS[-1]]
                queries = np.concatenate([embeddings[i] for i, _ in block])
                rankings = self.index.search_embeddings(queries, k, language=language)
                answers += [
                    (i, results[: request.k]) for (i, request), results in zip(block, rankings)
                ]
        return answers


def _kind(request: EngineRequest) -> str:
    return request.kind if isinstance(request, EncodeRequest) else "query"
