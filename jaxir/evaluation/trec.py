"""TREC's files: runs (what was ranked) and qrels (what is right), as trec_eval reads them.

What is written has passed `check_id`.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from jaxir.errors import UserError
from jaxir.evaluation.dataset import RetrievalDataset
from jaxir.evaluation.measuring import Run
from jaxir.runtime.files import writing


def write_run(path: Path, dataset: RetrievalDataset, runs: Iterable[Run], tag: str) -> None:
    """Write `query Q0 passage rank score tag`, best first, whole or not at all.

    Scores have the digits that tell every float32 from its neighbours, so that trec_eval sees the
    same ties.
    """
    queries, passages = dataset.query_ids, dataset.passage_ids
    with writing(path) as file:
        for run in runs:
            for row, scores, places in zip(run.queries, *run.found):
                ranked = [(passages[place], score) for score, place in zip(scores.tolist(), places)]
                file.writelines(run_lines(queries[row], ranked, tag))


def run_lines(query: str, ranked: Iterable[tuple[str, float]], tag: str) -> Iterator[str]:
    """Lines of one query, whose passages and scores are given, best first."""
    for rank, (passage, score) in enumerate(ranked, start=1):
        yield f"{query} Q0 {passage} {rank} {score:.9g} {tag}\n"


def write_qrels(path: Path, dataset: RetrievalDataset, runs: Iterable[Run]) -> None:
    """Write `query 0 passage gain` of what was to be found in some runs, whole or not at all."""
    queries, passages = dataset.query_ids, dataset.passage_ids
    with writing(path) as file:
        for run in runs:
            for row in run.queries:
                for place, gain in zip(dataset.relevant[row], dataset.gains[row]):
                    language = dataset.passage_language[place]
                    if gain > 0 and run.language in (-1, language):
                        file.write(f"{queries[row]} 0 {passages[place]} {gain}\n")


def read_qrels(path: Path) -> Iterator[tuple[str, str, int]]:
    """Query, passage and gain of each line, `query 0 passage gain` or BEIR's three columns.

    Raises:
        UserError: names the file and the line that is neither.
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
                f"{path}:{number}: not a judgement; "
                "`query 0 passage gain` or `query passage gain` is needed"
            ) from None


def check_ids(dataset: RetrievalDataset) -> None:
    """Refuse a task of which an id does not fit; see `check_id`."""
    mend = "rename it, or --runs= writes none"
    for one in (*dataset.query_ids, *dataset.passage_ids):
        check_id(one, f"{dataset.name}: ", mend)


def check_id(one: str, where: str = "", mend: str = "rename it") -> None:
    """Refuse an id that a run file, whose columns white space separates, cannot hold.

    Raises:
        UserError: names the id, after `where`, and says how to `mend` it.
    """
    if len(one.split()) != 1:
        raise UserError(
            f"{where}the id {one!r} is empty or holds white space, which run files cannot "
            f"express; {mend}"
        )
