"""Search an index: one query, a file of queries, or as many as you type.

    python -m jaxir.search --index INDEX --query "Wo liegt die Donauquelle?"
    python -m jaxir.search --index INDEX --queries queries.jsonl --run run.trec
    python -m jaxir.search --index INDEX

The model is the one that the index was made by, unless --model names where it lies now. A file of
queries is JSON lines (`_id` or `id`, `text`), Parquet, or plain text, one a line; the run file has
`query Q0 passage rank score jaxir` for trec_eval.

Exit status: 0 finished; 2 a mistake in what it was told; 1 otherwise.
"""

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from jaxir import command_line
from jaxir.errors import UserError

if TYPE_CHECKING:
    from jaxir.retrieval.index import Index

QUERIES_AT_ONCE = 1_024


def _define(values: flags.FlagValues) -> None:
    command_line.define_index(values)
    flags.DEFINE_string("query", None, "one query", flag_values=values)
    flags.DEFINE_string("queries", None, "file of queries", flag_values=values)
    flags.DEFINE_string("run", None, "TREC run file to write of them", flag_values=values)
    flags.DEFINE_string(
        "language", None, "search the passages of this language alone", flag_values=values
    )
    flags.DEFINE_integer("k", 10, "how many passages", 1, flag_values=values)


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
    _, index = command_line.load_index(values)
    if values.queries is not None:
        count = _write_run(index, Path(values.queries), Path(values.run), values.k, values.language)
        print(f"{values.run}: {count:,} queries")
    elif values.query is not None:
        _show(index, values.query, values.k, values.language)
    else:
        for query in _typed():
            try:
                _show(index, query, values.k, values.language)
            except UserError as error:  # of this query alone
                print(f"error: {error}", file=sys.stderr)
    return 0


def _typed() -> Iterator[str]:
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
    """Write the TREC run of a file of queries, whole or not at all; returns how many they were."""
    from jaxir.data.texts import read_texts
    from jaxir.evaluation.trec import check_id, run_lines
    from jaxir.progress import progress_bar
    from jaxir.retrieval.index import check_new_ids
    from jaxir.runtime.files import writing

    asked = read_texts([queries])
    ids: list[str] = []
    with writing(run) as file, progress_bar("searching", None, "queries") as bar:
        while some := list(islice(asked, QUERIES_AT_ONCE)):
            ids += [query.id for query in some]
            found = index.search([query.text for query in some], k, language=language)
            for query, results in zip(some, found):
                ranked = [(result.id, result.score) for result in results]
                for one in (query.id, *(passage for passage, _ in ranked)):
                    check_id(one)
                file.writelines(run_lines(query.id, ranked, "jaxir"))
            bar.update(len(some))
        if not ids:
            raise UserError(f"{queries}: holds no query")
        check_new_ids(ids)
    return len(ids)


def command() -> None:
    """The console script."""
    command_line.run(main)


if __name__ == "__main__":
    command()
