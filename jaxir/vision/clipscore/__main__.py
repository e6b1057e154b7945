"""Score how well captions fit their images: CLIPScore, and with references RefCLIPScore.

    python -m jaxir.vision.clipscore --model M --captions FILE --images DIR [--references FILE]
    python -m jaxir.vision.clipscore --model M --captions Flickr8k.token.txt --images DIR \\
        --human ExpertAnnotations.txt

M is a folder of transformers with a CLIP (config.json, safetensors, preprocessor_config.json and
the tokenizer), its name on the hub, or the workdir or export of a run of ALBEF. FILE has JSON lines
with `image` (a name in DIR), `caption` and optionally `language` and `id`; in a file of references,
`references` is a list. Or it is one JSON object from image names to captions or lists of
references. --human compares scores with human ratings of Flickr8k's captions, in
ExpertAnnotations.txt or CrowdFlowerAnnotations.txt, by Kendall's tau.

CLIPScore is 2.5 max(cos, 0) of image and caption, RefCLIPScore its harmonic mean with the largest
cosine of caption and reference (arXiv 2104.08718). Scores of different models do not compare.

Exit status: 0 finished; 2 an error in the arguments or the input; 1 any other error.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from jaxir import command_line
from jaxir.errors import UserError

if TYPE_CHECKING:
    from jaxir.vision.clipscore.candidates import InputErrors
    from jaxir.vision.clipscore.score_captions import CaptionScores

_SHOWN = 5  # messages of errors that were skipped
TITLES = {"clip_score": "CLIPScore", "ref_clip_score": "RefCLIPScore"}


def _define(values: flags.FlagValues) -> None:
    def string(name: str, default: str | None, text: str) -> None:
        flags.DEFINE_string(name, default, text, flag_values=values)

    string("model", None, "folder or hub name of a CLIP, or a run of ALBEF")
    string("text_model", "", "dual encoder that embeds the texts (default: the CLIP itself)")
    string("captions", None, "file of captions: .jsonl, .json, or Flickr8k.token.txt")
    string("images", None, "folder of their images")
    string("references", None, "file of reference captions: .jsonl or .json")
    string("human", None, "ExpertAnnotations.txt or CrowdFlowerAnnotations.txt of Flickr8k")
    string(
        "prefix", None, "before each caption and reference (CLIP: 'A photo depicts '; ALBEF: none)"
    )
    string("output", None, "JSON file for all scores")
    flags.DEFINE_bool(
        "skip_bad",
        False,
        "leave out rows and images that cannot be used instead of stopping",
        flag_values=values,
    )


def main(argv: list[str]) -> int:
    """Read the command line, then score."""
    values = flags.FlagValues()
    _define(values)
    if command_line.parse(argv, values, str(__doc__)) is None:
        return 0
    command_line.require(values, "model", "captions", "images")
    if values.human and values.references:
        raise UserError("--references: leave it out with --human, whose references are captions")
    if values.output and not Path(values.output).absolute().parent.is_dir():
        raise UserError(f"--output {values.output}: no such folder")
    # imported late: it takes seconds, which neither help nor a misspelt flag should wait for
    from jaxir.runtime.files import write_json
    from jaxir.runtime.versions import made_with
    from jaxir.vision.clipscore.candidates import InputErrors
    from jaxir.vision.clipscore.score_captions import caption_rows

    command_line.log_to_stderr()
    errors = InputErrors(values.skip_bad)
    scores, report = _score(values, errors)
    _show(scores, report, errors)
    if values.output:
        made = {"command": ["python -m jaxir.vision.clipscore", *argv[1:]], **made_with()}
        write_json(Path(values.output), made | report | {"items": list(caption_rows(scores))})
    return 0


def _score(
    values: flags.FlagValues, errors: "InputErrors"
) -> tuple["CaptionScores", dict[str, Any]]:
    """Scores of all captions, and the report without those of single captions."""
    from jaxir.progress import still_at
    from jaxir.vision.clipscore import score_captions
    from jaxir.vision.clipscore.candidates import ImageFolder
    from jaxir.vision.clipscore.scorer import load_scorer

    captions, images = Path(values.captions), ImageFolder(Path(values.images))
    files = ("captions", "images", "references", "human")
    report: dict[str, Any] = {
        **{name: values[name].value for name in ("model", "text_model")},
        "files": {name: values[name].value for name in files if values[name].value},
    }
    kind = ""
    if values.human:
        ratings = Path(values.human)
        candidates, kind, self_pairs = score_captions.read_rated_candidates(
            captions, images, ratings, errors
        )
        report["self_pairs"] = self_pairs
    else:
        references = Path(values.references) if values.references else None
        candidates = score_captions.read_candidates(captions, images, references, errors)
    errors.check()
    scorer = load_scorer(values.model, values.text_model)
    prefix = scorer.prefix if values.prefix is None else values.prefix
    prefix = report["prefix"] = prefix if prefix[-1:] in ("", " ") else prefix + " "
    with still_at("scoring"):
        scores = score_captions.score_captions(candidates, images, scorer, prefix, errors)
    report |= score_captions.summary(scores)
    if kind:
        report["agreement"] = score_captions.agreement(scores, kind)
    report["skipped"] = errors.messages
    return scores, report


def _show(scores: "CaptionScores", report: dict[str, Any], errors: "InputErrors") -> None:
    """Print mean scores by language, agreement with people, and the errors that were skipped."""
    from rich.console import Console
    from rich.table import Table

    names = ["clip_score"] + ["ref_clip_score"] * (scores.ref_clip is not None)
    table = Table("", box=None, header_style="bold")
    for title in ("captions", *(TITLES[name] for name in names)):
        table.add_column(title, justify="right")
    rows = report["languages"] | {"all": report}
    for code, row in rows.items():
        table.add_row(code, f"{row['captions']:,}", *(f"{row[name]:.4f}" for name in names))
    console = Console(markup=False, highlight=False)
    console.print(table)
    if "agreement" in report:
        for line in _agreement_lines(report, names):
            console.print(line)
    if errors.messages:
        console.print(f"\nleft out: {len(errors.messages):,}")
        for message in errors.messages[:_SHOWN]:
            console.print(f"  {message}", soft_wrap=True)


def _agreement_lines(report: dict[str, Any], names: Sequence[str]) -> list[str]:
    agreement = report["agreement"]
    lines = [
        f"\n{agreement['kind']}: {agreement['samples']:,} ratings, compared by "
        f"tau-{agreement['variant']}; left out: {report['self_pairs']:,} pairs whose caption was "
        "written for the image"
    ]
    for name in names:
        taus = []
        for variant in ("b", "c"):
            tau = agreement[name][f"tau_{variant}"]
            taus.append(f"tau-{variant} " + ("not defined" if tau is None else f"{100 * tau:.1f}"))
        lines.append(f"  {TITLES[name]}: {', '.join(taus)}")
    return lines


def command() -> None:
    """The console script."""
    command_line.run(main)


if __name__ == "__main__":
    command()
