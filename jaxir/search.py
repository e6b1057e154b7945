"""Search an index: one query, a file of queries, or queries typed one by one.

    python -m jaxir.search --index INDEX --query "Wo liegt die Donauquelle?"
    python -m jaxir.search --index INDEX --queries queries.jsonl --run run.trec
    python -m jaxir.search --index INDEX

The model is the one that made the index; --model names its path where that has changed. A file of
queries is JSON lines (`_id` or `id`, `text`), Parquet, or plain text, one query a line; the run
file has `query Q0 passage rank score jaxir` for trec_eval.

Exit status: 0 finished; 2 a mistake in flags or input; 1 otherwise.
"""

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from jaxir import command_line, model_flags
from jaxir.errors import UserError

if TYPE_CHECKING:
    from jaxir.retrieval.index import Index

QUERY_BATCH = 1_024  # queries of a file that are searched together


def _define(values: flags.FlagValues) -> None:
    model_flags.define_index(values)
    flags.DEFINE_string("query", None, "one query", flag_values=values)
    flags.DEFINE_string("queries", None, "file of queries", flag_values=values)
    flags.DEFINE_string("run", None, "TREC run file to write for them", flag_values=values)
    flags.DEFINE_string(
        "language", None, "search only the passages of this language", flag_values=values
    )
    flags.DEFINE_integer("k", 10, "number of passages a query", 1, flag_values=values)


def main(argv: list[str]) -> int:
    """Read the command line, then search."""
    values = flags.FlagValues()
    _define(values)
    if command_line.parse(argv, values, str(__doc__)) is None:
        return 0
    command_line.require(values, "index")
    if (values.queries is None) != (values.run is None):
        raise UserError("--queries and --run go together: the file to read and the one to write")
    if values.query is not None and values.queries is not None:
        raise UserError("--query or --queries, not both")
    if values.query is not None and not values.query.strip():
        raise UserError("--query is empty")
    _, index = model_flags.load_index(values)
    if values.queries is not None:
        count = _write_run(index, Path(values.queries), Path(values.run), values.k, values.language)
        print(f"{values.run}: {count:,} queries")
    elif values.query is not None:
        _show(index, values.query, values.k, values.language)
    else:
        for query in _typed_queries():
            try:
                _show(index, query, values.k, values.language)
            except UserError as error:  # a mistake in one query; the next may be typed
                print(f"error: {error}", file=sys.stderr)
    return 0


def _typed_queries() -> Iterator[str]:
    """Queries from standard input, until it ends."""
    prompt = "query: " if sys.stdin.isatty() else ""
    while True:
        try:
            query = input(prompt)
        except EOFError:
            return
        except UnicodeDecodeError as error:
            raise UserError(f"standard input: not UTF-8 ({error.reason})") from None
        if query.strip():
            yield query


def _show(index: "Index", query: str, k: int, language: str | None) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("score", "language", "id", "text", box=None, header_style="bold")
    for result in index.search([query], k, language=language)[0]:
        text = " ".join(result.text.split())
        short = text if len(text) <= 300 else text[:299] + "…"
        table.add_row(f"{result.score:.3f}", result.language, result.id, short)
    console = Console(markup=False, highlight=False)
    console.print(table)


def _write_run(index: "Index", queries: Path, run: Path, k: int, language: str | None) -> int:
    """Write the TREC run of a file of queries, whole or not at all; returns their number."""
    from jaxir.data.texts import read_texts
    from jaxir.evaluation.trec import check_id, run_lines
    from jaxir.progress import progress_bar
    from jaxir.retrieval.index import check_unique_ids
    from jaxir.runtime.files import writing

    remaining = read_texts([queries])
    ids: list[str] = []
    with writing(run) as file, progress_bar("searching", None, "queries") as bar:
        while batch := list(islice(remaining, QUERY_BATCH)):
            ids += [query.id for query in batch]
            results = index.search([query.text for query in batch], k, language=language)
            for query, ranking in zip(batch, results):
                ranked = [(result.id, result.score) for result in ranking]
                for id_ in (query.id, *(passage for passage, _ in ranked)):
                    check_id(id_)
                file.writelines(run_lines(query.id, ranked, "jaxir"))
            bar.update(len(batch))
        if not ids:
            raise UserError(f"{queries}: holds no queries")
        check_unique_ids(ids, "queries")
    return len(ids)


def command() -> None:
    """The console script."""
    command_line.run(main)


if __name__ == "__main__":
    command()
