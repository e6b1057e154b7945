"""TREC's files as trec_eval reads them: runs (rankings) and qrels (relevance judgements).

Ids are checked by `check_id` before they are written.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from jaxir.errors import UserError
from jaxir.evaluation.dataset import RetrievalDataset
from jaxir.evaluation.ranking import Ranking
from jaxir.runtime.files import writing


def write_run(path: Path, dataset: RetrievalDataset, rankings: Iterable[Ranking], tag: str) -> None:
    """Write `query Q0 passage rank score tag`, best first; the file is whole or absent.

    Scores have the digits that tell every float32 from its neighbours, so that trec_eval sees the
    same ties.
    """
    queries, passages = dataset.query_ids, dataset.passage_ids
    with writing(path) as file:
        for ranking in rankings:
            for row, scores, indices in zip(ranking.queries, *ranking.top):
                ranked = [
                    (passages[index], score) for score, index in zip(scores.tolist(), indices)
                ]
                file.writelines(run_lines(queries[row], ranked, tag))


def run_lines(query: str, ranked: Iterable[tuple[str, float]], tag: str) -> Iterator[str]:
    """Lines of a run file for one query, from its passages and their scores, best first."""
    for rank, (passage, score) in enumerate(ranked, start=1):
        yield f"{query} Q0 {passage} {rank} {score:.9g} {tag}\n"


def write_qrels(path: Path, dataset: RetrievalDataset, rankings: Iterable[Ranking]) -> None:
    """Write `query 0 passage gain` of the passages that rankings should have retrieved.

    The file is whole or absent.
    """
    queries, passages = dataset.query_ids, dataset.passage_ids
    with writing(path) as file:
        for ranking in rankings:
            for row in ranking.queries:
                for index, gain in zip(dataset.relevant[row], dataset.gains[row]):
                    # a ranking of one language's passages can retrieve no others
                    language = dataset.passage_language[index]
                    if gain > 0 and ranking.language in (-1, language):
                        file.write(f"{queries[row]} 0 {passages[index]} {gain}\n")


def read_qrels(path: Path) -> Iterator[tuple[str, str, int]]:
    """Read query, passage and gain of lines `query 0 passage gain` or of BEIR's three columns.

    Raises:
        UserError: a line is neither; the message names it.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    for number, line in enumerate(lines, start=1):
        fields = re.findall(r"[^ \t\r]+", line)  # ids may hold other white space
        if not fields or (number == 1 and fields[-1] == "score"):  # BEIR's first line
            continue
        try:
            query, *middle, passage, gain = fields
            if len(middle) > 1:
                raise ValueError(line)
            yield query, passage, int(gain)
        except ValueError:
            raise UserError(
                f"{path}:{number}: not a judgement; a line must be `query 0 passage gain` or "
                "`query passage gain`"
            ) from None


def check_ids(dataset: RetrievalDataset) -> None:
    """Refuse a dataset with an id that a run file cannot hold; see `check_id`."""
    mend = "rename it, or write no run files with --runs="
    for id_ in (*dataset.query_ids, *dataset.passage_ids):
        check_id(id_, f"{dataset.name}: ", mend)


def check_id(id_: str, where: str = "", mend: str = "rename it") -> None:
    """Refuse an id that is empty or holds white space, which separates the columns of a run file.

    Raises:
        UserError: the message names the id, after `where`, and says how to `mend` it.
    """
    if len(id_.split()) != 1:
        raise UserError(
            f"{where}the id {id_!r} is empty or holds white space, which run files cannot "
            f"express; {mend}"
        )
