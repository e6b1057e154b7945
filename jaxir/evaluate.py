"""Evaluate a model on a benchmark, in every setting, with its language bias.

    python -m jaxir.evaluate --model MODEL --benchmark xquad_r --output DIR
    python -m jaxir.evaluate --compare DIR OTHER_DIR [--output COMPARISON_DIR]

MODEL is the workdir of a run, a transformers or sentence-transformers folder, or a name on the
hub. The benchmark is xquad_r (downloaded when needed), mlqa_r, miracl, cldr, or a folder with
corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv. DIR gets report.json, values.npz (every metric of
every query), TREC run and qrels files, and pictures. --compare prints two such folders side by
side, with the p values of a paired randomisation test; --output writes that as JSON, and both heat
maps in one picture.

Exit status: 0 finished; 2 a mistake in flags or input; 1 otherwise.
"""

from pathlib import Path

from absl import flags

from jaxir import command_line, model_flags
from jaxir.errors import UserError


def _define(values: flags.FlagValues) -> None:
    def string(name: str, default: str | None, text: str) -> None:
        flags.DEFINE_string(name, default, text, flag_values=values)

    def integer(name: str, default: int | None, text: str, lowest: int = 1) -> None:
        flags.DEFINE_integer(name, default, text, lowest, flag_values=values)

    model_flags.define_model(values)
    string("benchmark", None, "xquad_r, mlqa_r, miracl, cldr, or a folder in BEIR's layout")
    string("output", None, "folder for the report")
    string("directory", "", "folder of the benchmark's files (default: they are downloaded)")
    flags.DEFINE_list("languages", [], "of miracl, or of a folder's rows", flag_values=values)
    string("split", "", "of the judgements (default: dev for miracl, test for a folder)")
    string("passage", "sentence", "of xquad_r and mlqa_r: sentence or sentence_with_paragraph")
    flags.DEFINE_bool(
        "allow_partial", False, "accept fewer texts than were published", flag_values=values
    )
    integer("depth", 0, "keep only the top DEPTH of each ranking, for large collections; 0: all", 0)
    integer("run_depth", 100, "passages a query in run files, and in metrics of the top-k")
    string("index_dtype", "float32", "of the passages: float32, bfloat16 or int8")
    flags.DEFINE_float(
        "approximate_recall",
        None,
        "expected recall of approximate search",
        flag_values=values,
    )
    flags.DEFINE_list(
        "runs",
        ["monolingual", "multilingual"],
        "settings to write run files for",
        flag_values=values,
    )
    flags.DEFINE_bool("bm25", True, "evaluate BM25 too", flag_values=values)
    integer("resamples", 1_000, "bootstrap samples of the confidence intervals")
    string("compare", None, "DIR OTHER_DIR: compare two reports")


def main(argv: list[str]) -> int | None:
    """Read the command line, then evaluate or compare."""
    values = flags.FlagValues()
    _define(values)
    words = command_line.parse(argv, values, str(__doc__), words=1)
    if words is None:
        return 0
    if values.compare is not None:
        if len(words) != 1:
            raise UserError("--compare: name two folders, --compare DIR OTHER_DIR")
        from jaxir.benchmarks.report_comparison import compare_reports

        output = Path(values.output) if values.output else None
        compare_reports(Path(values.compare), Path(words[0]), output)
        return 0
    if words:
        raise UserError(f"{words[0]!r}: not a flag; see --help")
    command_line.require(values, "model", "benchmark", "output")
    # these take seconds to import: neither help nor a misspelt flag should wait for them
    from jaxir.benchmarks.registry import Benchmark
    from jaxir.benchmarks.reports import evaluate
    from jaxir.evaluation.ranking import RankingOptions
    from jaxir.training.trained import read_trained

    benchmark = Benchmark(
        values.benchmark,
        values.directory,
        tuple(values.languages),
        values.split,
        values.passage,
        values.allow_partial,
    )
    options = RankingOptions(
        values.depth, values.run_depth, values.index_dtype, values.approximate_recall
    )
    command_line.log_to_stderr()
    evaluate(
        values.model,
        read_trained,
        benchmark,
        Path(values.output),
        options,
        model_flags.model_settings(values),
        runs=tuple(values.runs),
        with_bm25=values.bm25,
        resamples=values.resamples,
    )
    return 0


def command() -> None:
    """The console script."""
    command_line.run(main)


if __name__ == "__main__":
    command()
