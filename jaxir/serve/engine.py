"""What the worker thread does: many requests' texts through the model and the index at once.

JAX compiles a program for every shape. Here the number of texts is rounded up to one of `SIZES`,
their length to one of `jaxir.retrieval.encoding.WIDTHS`, and the number of results to one of
`PLACES`; `warm_up` compiles them all before the first request comes.

Dimension key: T texts, D embedding width, K results.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import jax
import numpy as np
from jaxtyping import Float

from jaxir.data.tokens import Tokens
from jaxir.retrieval.encoding import WIDTHS
from jaxir.retrieval.index import LANGUAGES_KEPT, Index, Result
from jaxir.retriever import Retriever

SIZES = (1, 8, 32)  # texts encoded at once
SEARCH_SIZES = (8, 16, 32)  # the blocks that a search of up to 32 queries rounds up to
PLACES = (10, 100)
TIED_ROWS = 65_536  # larger indexes go on doubling the places until a tie is settled


@dataclass(frozen=True, slots=True)
class Search:
    """The best passages for one query."""

    texts: tuple[str]
    places: int
    language: str | None


@dataclass(frozen=True, slots=True)
class Encode:
    """Embeddings of some texts."""

    texts: tuple[str, ...]
    kind: str  # query or passage


Work: TypeAlias = Search | Encode
Answer: TypeAlias = list[Result] | Float[np.ndarray, "T D"]


class Engine:
    """A model and the index that it made; used by one thread.

    Args:
        retriever: the model.
        index: the passages.
    """

    def __init__(self, retriever: Retriever, index: Index):
        # the texts of a block are one batch, of a shape that was compiled
        longest = max(retriever.model.max_query_tokens, retriever.model.max_passage_tokens)
        retriever.batch_tokens = max(
            retriever.batch_tokens, SIZES[-1] * longest * len(jax.devices())
        )
        self.retriever, self.index = retriever, index
        self.languages = index.languages

    def warm_up(self) -> int:
        """Compile what requests will need; returns how many shapes that were."""
        shapes = [(size, width) for width in self._widths() for size in SIZES]
        for size, width in shapes:
            self._encode_padding(size, width)
        languages = [None, *[name for name in self.languages if name][: LANGUAGES_KEPT - 1]]
        searches = [(n, k, x) for x in languages for k in PLACES for n in SEARCH_SIZES]
        for size, places, language in searches:
            rows = len(self.index) if language is None else self.languages[language]
            queries = np.zeros((size, self.retriever.width), np.float32)
            if rows > TIED_ROWS:
                queries += np.random.default_rng(0).standard_normal(queries.shape, np.float32)
            # zeros score alike everywhere, which also compiles how ties are settled
            self.index.search_embeddings(queries, places, language=language)
        return len(shapes) + len(searches)

    def _widths(self) -> list[int]:
        model = self.retriever.model
        limits = {model.max_query_tokens, model.max_passage_tokens}
        return sorted(limits | {width for width in WIDTHS if width < max(limits)})

    def _encode_padding(self, size: int, width: int) -> None:
        pad_id = self.retriever.model.tokenizer.pad_token_id
        nowhere = np.zeros(size, np.int64)
        ids = np.full(width, pad_id, np.int32)
        tokens = Tokens((ids,), nowhere, nowhere, nowhere + width, (), (), pad_id)
        self.retriever.encode_tokens(tokens, width)

    def answer(self, batch: Sequence[Work]) -> list[Answer]:
        """An answer to each: results of a `Search`, embeddings of an `Encode`."""
        embeddings: dict[int, Float[np.ndarray, "T D"]] = {}
        for kind in ("query", "passage"):
            mine = [number for number, work in enumerate(batch) if _kind(work) == kind]
            texts = [text for number in mine for text in batch[number].texts]
            rows = self._encode(kind, texts)
            ends = np.cumsum([len(batch[number].texts) for number in mine])
            embeddings |= zip(mine, np.split(rows, ends[:-1])) if mine else ()
        answers: list[Answer] = [embeddings[number] for number in range(len(batch))]
        for number, found in self._search(batch, embeddings):
            answers[number] = found
        return answers

    def _encode(self, kind: str, texts: list[str]) -> Float[np.ndarray, "T D"]:
        encode = self.retriever.encode_queries
        if kind == "passage":
            encode = self.retriever.encode_passages
        blocks = [np.empty((0, self.retriever.width), np.float32)]
        for first in range(0, len(texts), SIZES[-1]):
            block = texts[first : first + SIZES[-1]]
            size = next(size for size in SIZES if size >= len(block))
            # copies of a short text make no batch wider
            padding = [min(block, key=len)] * (size - len(block))
            blocks.append(encode([*block, *padding])[: len(block)])
        return np.concatenate(blocks)

    def _search(
        self, batch: Sequence[Work], embeddings: dict[int, Float[np.ndarray, "T D"]]
    ) -> list[tuple[int, list[Result]]]:
        groups: dict[tuple[str | None, int], list[int]] = {}
        for number, work in enumerate(batch):
            if isinstance(work, Search):
                places = next(places for places in PLACES if places >= work.places)
                groups.setdefault((work.language, places), []).append(number)
        found: list[tuple[int, list[Result]]] = []
        for (language, places), numbers in groups.items():
            for first in range(0, len(numbers), SEARCH_SIZES[-1]):
                some = numbers[first : first + SEARCH_SIZES[-1]]
                queries = np.concatenate([embeddings[number] for number in some])
                results = self.index.search_embeddings(queries, places, language=language)
                for number, ranked in zip(some, results):
                    work = batch[number]
                    assert isinstance(work, Search)
                    found.append((number, ranked[: work.places]))
        return found


def _kind(work: Work) -> str:
    return work.kind if isinstance(work, Encode) else "query"
