"""A dataset from a corpus, queries and relevance judgements, as MIRACL and BEIR publish them.

Passages are `title + text`. A passage is kept even if its id equals a query's, or if it is empty,
since it competes with the others of its corpus; an empty query is an error.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from jaxir.data.texts import Text
from jaxir.errors import UserError
from jaxir.evaluation.dataset import SETTINGS, RetrievalDataset
from jaxir.evaluation.trec import read_qrels

Judgements = dict[str, dict[int, int]]  # query's id -> index of a passage -> gain


def judged_dataset(
    name: str,
    queries: Iterable[Text],
    passages: Iterable[Text],
    qrels: Path,
    partial: bool = False,
) -> RetrievalDataset:
    """A dataset of the judged queries; passages with a gain above 0 are relevant.

    Args:
        name: of the dataset.
        queries: the judged ones, and others, which are left out.
        passages: the corpus.
        qrels: file of the judgements.
        partial: leave out judged passages that are not in the corpus.

    Raises:
        UserError: a judgement names an unknown query or passage, or a pair twice; a judged query is
            empty.
    """
    pool = list(passages)
    index_of = {passage.id: index for index, passage in enumerate(pool)}
    judgements = _read_judgements(qrels, index_of, partial)
    judged = [query for query in queries if query.id in judgements]
    _check_queries(name, judged, judgements, qrels)
    relevant, gains = _relevant_passages([judgements[query.id] for query in judged])
    languages = tuple(sorted({text.language for text in (*judged, *pool)}))
    language_index = {language: index for index, language in enumerate(languages)}
    return RetrievalDataset(
        name=name,
        languages=languages,
        queries=[query.text for query in judged],
        query_ids=[query.id for query in judged],
        query_language=np.array([language_index[query.language] for query in judged]),
        passages=[passage.text for passage in pool],
        passage_ids=[passage.id for passage in pool],
        passage_language=np.array([language_index[passage.language] for passage in pool]),
        relevant=relevant,
        gains=gains,
        question=_question_indices(judged),
        settings=SETTINGS if len(languages) > 1 else SETTINGS[:1],
    )


def _read_judgements(qrels: Path, index_of: dict[str, int], partial: bool) -> Judgements:
    judgements: Judgements = {}
    for query, passage, gain in read_qrels(qrels):
        gains = judgements.setdefault(query, {})
        if passage not in index_of and partial:
            continue
        if passage not in index_of:
            raise UserError(
                f"{qrels}: query {query} has passage {passage!r} judged, which is not in the corpus"
            )
        if index_of[passage] in gains:
            raise UserError(f"{qrels}: query {query} has passage {passage!r} judged twice")
        gains[index_of[passage]] = gain
    if not judgements:
        raise UserError(f"{qrels}: holds no judgement")
    return judgements


def _check_queries(name: str, judged: Sequence[Text], judgements: Judgements, qrels: Path) -> None:
    unknown = judgements.keys() - {query.id for query in judged}
    if unknown:
        raise UserError(f"{qrels}: judges query {min(unknown)!r}, which is not among the queries")
    if not any(gain > 0 for gains in judgements.values() for gain in gains.values()):
        raise UserError(f"{qrels}: no judgement is above 0, so no passage is relevant")
    for query in judged:
        if not query.text.strip():
            raise UserError(f"{name}: query {query.id!r} is empty")


def _relevant_passages(
    judgements: Sequence[dict[int, int]],
) -> tuple[Int[np.ndarray, "Q R"], Int[np.ndarray, "Q R"]]:
    """Indices and gains of each query's relevant passages, padded with -1 and 0."""
    relevant_gains = [
        {index: gain for index, gain in gains.items() if gain > 0} for gains in judgements
    ]
    most = max(1, *map(len, relevant_gains))
    relevant = np.full((len(judgements), most), -1)
    gains = np.zeros((len(judgements), most), np.int64)
    for row, gain_of in enumerate(relevant_gains):
        relevant[row, : len(gain_of)] = list(gain_of)
        gains[row, : len(gain_of)] = list(gain_of.values())
    return relevant, gains


def _question_indices(judged: Sequence[Text]) -> Int[np.ndarray, "Q"]:
    """The index of each query's question; a query without one has a question of its own."""
    # the pair keeps a question apart from a query's id that is spelt like it
    questions = [(query.question, "" if query.question else query.id) for query in judged]
    index_of = {question: index for index, question in enumerate(dict.fromkeys(questions))}
    return np.array([index_of[question] for question in questions])
