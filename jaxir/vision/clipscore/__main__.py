"""How well captions fit their images: CLIPScore, and with references RefCLIPScore.

    python -m jaxir.vision.clipscore --model M --captions FILE --images DIR [--references FILE]
    python -m jaxir.vision.clipscore --model M --captions Flickr8k.token.txt --images DIR \\
        --human ExpertAnnotations.txt

M is a folder of transformers with a CLIP (config.json, safetensors, preprocessor_config.json and
the tokenizer), its name on the hub, or the workdir or export of a run that aligned images. FILE is
JSON lines with `image` (a name in DIR), `caption` and optionally `language` and `id`; in
references, `references` is a list. Or it is one JSON object from image names to captions or lists
of references. --human compares scores with what people said
of Flickr8k's captions, in ExpertAnnotations.txt or CrowdFlowerAnnotations.txt, as Kendall's tau.

CLIPScore is 2.5 max(cos, 0) of image and caption, RefCLIPScore its harmonic mean with the largest
cosine of caption and reference (arXiv 2104.08718). Scores of different models do not compare.

Exit status: 0 finished; 2 a mistake in what it was told; 1 otherwise.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from jaxir import command_line
from jaxir.errors import UserError

if TYPE_CHECKING:
    from jaxir.vision.clipscore.candidates import Mistakes
    from jaxir.vision.clipscore.scoring import Scored

_SHOWN = 5  # mistakes that were left out


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
        raise UserError("--references: with --human they are the image's own captions")
    # these take seconds to import, and neither help nor a misspelt flag should wait for them
    from jaxir.progress import still_at
    from jaxir.runtime.files import write_json
    from jaxir.runtime.versions import made_with
    from jaxir.vision.clipscore.candidates import ImageFolder, Mistakes
    from jaxir.vision.clipscore.scorer import load_scorer
    from jaxir.vision.clipscore.scoring import (
        agreement,
        item_rows,
        items_of,
        rated_items,
        score,
        summary,
    )

    if values.output and not Path(values.output).absolute().parent.is_dir():
        raise UserError(f"--output {values.output}: no such folder")
    command_line.log_to_stderr()
    mistakes = Mistakes(values.skip_bad)
    captions, images = Path(values.captions), ImageFolder(Path(values.images))
    files = ("captions", "images", "references", "human")
    report: dict[str, Any] = {
        **{name: values[name].value for name in ("model", "text_model")},
        "files": {name: values[name].value for name in files if values[name].value},
    }
    kind = ""
    if values.human:
        items, kind, report["self_pairs"] = rated_items(
            captions, images, Path(values.human), mistakes
        )
    else:
        references = Path(values.references) if values.references else None
        items = items_of(captions, images, references, mistakes)
    mistakes.check()
    scorer = load_scorer(values.model, values.text_model)
    prefix = scorer.prefix if values.prefix is None else values.prefix
    prefix = report["prefix"] = prefix if prefix[-1:] in ("", " ") else prefix + " "
    with still_at("scoring"):
        scored = score(items, images, scorer, prefix, mistakes)
    report |= summary(scored)
    if kind:
        report["agreement"] = agreement(scored, kind)
    report["skipped"] = mistakes.found
    _show(scored, report, mistakes)
    if values.output:
        made = {"command": ["python -m jaxir.vision.clipscore", *argv[1:]], **made_with()}
        write_json(Path(values.output), made | report | {"items": list(item_rows(scored))})
    return 0


def _show(scored: "Scored", report: dict[str, Any], mistakes: "Mistakes") -> None:
    from rich.console import Console
    from rich.table import Table

    names = ["clip_score"] + ["ref_clip_score"] * (scored.ref_clip is not None)
    titles = {"clip_score": "CLIPScore", "ref_clip_score": "RefCLIPScore"}
    table = Table("", box=None, header_style="bold")
    for title in ("captions", *(titles[name] for name in names)):
        table.add_column(title, justify="right")
    rows = report["languages"] | {"all": report}
    for code, row in rows.items():
        table.add_row(code, f"{row['captions']:,}", *(f"{row[name]:.4f}" for name in names))
    console = Console(markup=False, highlight=False)
    console.print(table)
    if "agreement" in report:
        found = report["agreement"]
        console.print(
            f"\n{found['kind']}: {found['samples']:,} ratings, for tau-{found['variant']}; "
            f"{report['self_pairs']:,} pairs left out, whose caption is the image's own"
        )
        for name in names:
            taus = ", ".join(
                f"tau-{x} " + ("not defined" if tau is None else f"{100 * tau:.1f}")
                for x, tau in ((x, found[name][f"tau_{x}"]) for x in ("b", "c"))
            )
            console.print(f"  {titles[name]}: {taus}")
    if mistakes.found:
        console.print(f"\nleft out: {len(mistakes.found):,}")
        for message in mistakes.found[:_SHOWN]:
            console.print(f"  {message}", soft_wrap=True)


def command() -> None:
    """The console script."""
    command_line.run(main)


if __name__ == "__main__":
    command()
