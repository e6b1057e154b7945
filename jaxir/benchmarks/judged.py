"""A retrieval task from a corpus, queries and judgements, as MIRACL and BEIR publish them.

Passages are `title + text`. None is dropped because its id equals a query's. A passage without any
text is kept, as the others of its collection meet it; a query without one is an error.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from jaxir.data.texts import Text
from jaxir.errors import UserError
from jaxir.evaluation.dataset import SETTINGS, RetrievalDataset
from jaxir.evaluation.trec import read_qrels


def judged_set(
    name: str,
    queries: Iterable[Text],
    passages: Iterable[Text],
    qrels: Path,
    partial: bool = False,
) -> RetrievalDataset:
    """A task of the queries that are judged; judgements of 0 or less say nothing.

    Args:
        name: of the task.
        queries: more than are judged will do.
        passages: the collection.
        qrels: the judgements.
        partial: leave out judged passages that are not in the collection.

    Raises:
        UserError: a judgement names a query or passage that is not there or twice; a judged query
            is empty.
    """
    pool = list(passages)
    place = {passage.id: number for number, passage in enumerate(pool)}
    judged: dict[str, dict[int, int]] = {}
    for asking, passage, gain in read_qrels(qrels):
        answers = judged.setdefault(asking, {})
        if passage not in place and partial:
            continue
        if passage not in place:
            raise UserError(
                f"{qrels}: query {asking} has passage {passage!r} judged, which is not in the "
                "corpus"
            )
        if place[passage] in answers:
            raise UserError(f"{qrels}: query {asking} has passage {passage!r} judged twice")
        answers[place[passage]] = gain
    if not judged:
        raise UserError(f"{qrels}: judges nothing")
    asked = [query for query in queries if query.id in judged]
    unknown = judged.keys() - {query.id for query in asked}
    if unknown:
        raise UserError(f"{qrels}: judges query {min(unknown)!r}, which is not among the queries")
    if not any(gain > 0 for answers in judged.values() for gain in answers.values()):
        raise UserError(f"{qrels}: no judgement is above 0, so that nothing could be right")
    for query in asked:
        if not query.text.strip():
            raise UserError(f"{name}: query {query.id!r} is empty")
    right = [
        {place: gain for place, gain in judged[query.id].items() if gain > 0} for query in asked
    ]
    widest = max(1, *map(len, right))
    relevant, gains = np.full((len(asked), widest), -1), np.zeros((len(asked), widest), np.int64)
    for row, answers in enumerate(right):
        relevant[row, : len(answers)] = list(answers)
        gains[row, : len(answers)] = list(answers.values())
    languages = tuple(sorted({text.language for text in (*asked, *pool)}))
    number = {language: index for index, language in enumerate(languages)}
    # a query without a question that others share asks one of its own
    questions = [(query.question, "" if query.question else query.id) for query in asked]
    numbers = {question: index for index, question in enumerate(dict.fromkeys(questions))}
    return RetrievalDataset(
        name=name,
        languages=languages,
        queries=[query.text for query in asked],
        query_ids=[query.id for query in asked],
        query_language=np.array([number[query.language] for query in asked]),
        passages=[passage.text for passage in pool],
        passage_ids=[passage.id for passage in pool],
        passage_language=np.array([number[passage.language] for passage in pool]),
        relevant=relevant,
        gains=gains,
        question=np.array([numbers[question] for question in questions]),
        settings=SETTINGS if len(languages) > 1 else SETTINGS[:1],
    )
