"""A sweep's report as one HTML page that needs no other file."""

import base64
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from jaxir.evaluation.settings import plain
from jaxir.sweep import differences, surface, tradeoff
from jaxir.sweep.results import Study, without_languages
from jaxir.sweep.ternary import short

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1180px; margin: 2em auto;
  padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { padding: .25em .6em; text-align: right; }
td { white-space: nowrap; }
th { border-bottom: 1px solid #888; font-weight: 600; vertical-align: bottom; }
tr:nth-child(even) td { background: #f6f6f6; } td:first-child, th:first-child { text-align: left; }
.better { color: #07702f; font-weight: 600; } .worse { color: #a3161f; }
.maps { display: grid; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); gap: 1em; }
img { max-width: 100%; height: auto; } .small { color: #666; font-size: 13px; }
.missing { background: #fdecc8; padding: .6em 1em; border-left: 4px solid #d98300; }
pre { background: #f6f6f6; padding: .8em; overflow-x: auto; font-size: 12px;
  white-space: pre-wrap; }
.wide { overflow-x: auto; } .one { max-width: 760px; }
details { margin: .6em 0; } summary { cursor: pointer; }
"""
SURE = 0.05


def page(study: Study, summary: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The whole report.

    Args:
        study: the figures.
        summary: what `report.json` holds.
        pictures: PNG, by name.
    """
    count = len(study.runs)
    title = f"{len(study.points)} points of the simplex, {study.task}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>Shares of {_listed(study.config.sweep.kinds)} batches; {len(study.seeds)} "
        f"seed{'s' if len(study.seeds) > 1 else ''} a point, {count} runs of "
        f"{study.config.steps:,} steps with {study.config.batch_size:,} pairs each. Measured on "
        f"{escape(study.task)}: {summary['size']}, "
        f"{len(study.languages)} languages ({' '.join(map(escape, study.languages))}).</p>",
        *_missing(summary),
        "<h2>In short</h2>",
        _list(_in_short(study, summary)),
        "<h2>Points</h2>",
        *_points(study, summary),
        "<h2>Over the simplex</h2>",
        '<p class="small">Dots are the means of points over seeds, the ground is the fitted '
        "surface; brighter is better.</p>",
        _pictures(pictures, [name for name in pictures if name.startswith("map_")]),
        *_surfaces(study, summary),
        *_trade_off(study, summary, pictures),
        "<h2>Languages</h2>",
        _pictures(pictures, ["languages"], "wide"),
        *_languages(study, summary),
        *_tests(study, summary),
        *_methods(),
        *_redo(study, summary),
    ]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}'
        '</title><meta name="viewport" content="width=device-width">'
        f"<style>{STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _missing(summary: Mapping[str, Any]) -> Iterator[str]:
    if summary["missing"]:
        reasons: dict[str, list[str]] = {}
        for name, why in summary["missing"].items():
            reasons.setdefault(why, []).append(name)
        rows = _list(f"{escape(why)}: {escape(', '.join(names))}" for why, names in reasons.items())
        yield (
            f'<div class="missing"><b>Runs without results: {len(summary["missing"])}.</b> '
            "Means are over the seeds that a point has; where that is not all of them, the table "
            f"says how many.{rows}</div>"
        )
    if summary["why_no_test"]:
        yield f'<div class="missing"><b>No test:</b> {escape(summary["why_no_test"])}.</div>'


def _in_short(study: Study, summary: Mapping[str, Any]) -> Iterator[str]:
    tests = {(one["point"], one["measure"]): one for one in summary["tests"]}
    known = [point for point in summary["points"] if point["seeds"]]
    for measure in without_languages(study):
        pick = max if measure.more_is_better else min
        best = pick(known, key=lambda point: point["measures"][measure.key]["mean"])
        text = f"Best {measure.title}: <b>{escape(best['name'])}</b>, {_spread(best, measure.key)}"
        test = tests.get((best["name"], measure.key))
        if test:
            text += (
                f"; {_signed(test['difference'])} against {escape(summary['against'])} "
                f"(p {_p(test['p_holm'])})"
            )
        yield text + "."
    if summary["pareto_front"]:
        yield (
            f"No point is better in {study.measure(study.comparison.quality).title} without more "
            f"{study.measure(study.comparison.bias).title} than: "
            f"{_listed(summary['pareto_front'])}."
        )


def _points(study: Study, summary: Mapping[str, Any]) -> Iterator[str]:
    tests = {(one["point"], one["measure"]): one for one in summary["tests"]}
    measures = without_languages(study)
    rows = []
    for point in summary["points"]:
        name = escape(point["name"])
        if point["seeds"] < len(study.seeds):
            name += f" ({point['seeds']} of {len(study.seeds)} seeds)"
        cells = [name, " · ".join(f"{share:.2f}" for share in point["shares"].values())]
        for measure in measures:
            text = _spread(point, measure.key) if point["seeds"] else "-"
            test = tests.get((point["name"], measure.key))
            if test and test["p_holm"] < SURE:
                better = (test["difference"] > 0) == measure.more_is_better
                kind, sign = ("better", "▲") if better else ("worse", "▼")
                text = f'<span class="{kind}">{text} {sign}</span>'
            cells.append(text)
        rows.append(cells)
    kinds = " ·<br>".join(kind.replace("_", "-") for kind in study.config.sweep.kinds)
    head = ["point", kinds]
    head += [f"{one.title} {'↑' if one.more_is_better else '↓'}" for one in measures]
    yield _table(head, rows)
    text = "Mean ± half the range over seeds."
    if summary["tests"]:
        text += (
            f" ▲ better, ▼ worse than {escape(summary['against'])}, p &lt; {SURE} after Holm's "
            "correction; without a sign the difference may be chance."
        )
    yield f'<p class="small">{text}</p>'


def _surfaces(study: Study, summary: Mapping[str, Any]) -> Iterator[str]:
    fitted = {key: one for key, one in summary["surfaces"].items() if one}
    if not fitted:
        yield (
            "<p>No surface: six points that determine one, and a run more than its six terms, are "
            "needed.</p>"
        )
        return
    titles = {one.key: one.title for one in study.measures}
    letters = ", ".join(
        f"{letter} = {kind.replace('_', '-')}"
        for letter, kind in zip("abc", study.config.sweep.kinds)
    )
    rows = [
        [
            titles[key],
            *(
                f"{short(value)} ±{short(error, value)}"
                for value, error in zip(one["coefficients"], one["standard_errors"])
            ),
            short(one["deviation"]),
            f"{one['explained']:.3f}",
            _p(one["p_lack_of_fit"]),
        ]
        for key, one in fitted.items()
    ]
    head = ["surface", *surface.TERMS, "deviation", "R²", "p of lack of fit"]
    yield "<details open><summary>Fitted surfaces</summary>" + _table(head, rows)
    yield (
        f'<p class="small">Scheffé quadratics, {letters}; coefficients ± standard errors, for '
        "rank distance those of its logarithm. Where p of the lack of fit is small (&lt; .05), the "
        "points bend in ways that the surface does not follow: trust the dots, and its intervals "
        "less.</p></details>"
    )


def _trade_off(
    study: Study, summary: Mapping[str, Any], pictures: Mapping[str, bytes]
) -> Iterator[str]:
    trade = summary["trade_off"]
    if not trade:
        return
    yield "<h2>Quality against bias</h2>"
    yield _pictures(pictures, ["pareto"], "one")
    best = trade["best"]
    if not best:
        return
    shares = ", ".join(
        f"{kind.replace('_', '-')} {share:.2f} (as good: {low:.2f} to {high:.2f})"
        for (kind, share), (low, high) in zip(best["shares"].items(), best["as_good"].values())
    )
    lines = [
        f"Predicted best shares at quality weight {trade['quality_weight']:g}: <b>{shares}</b>.",
        f"Score there {_interval(best['score'])}; over uniform shares "
        f"{_interval(best['score_over_uniform'])}.",
        "Expected there: "
        + ", ".join(
            f"{study.measure(key).title} {_interval(best[key])}"
            for key in (study.comparison.quality, study.comparison.bias)
        )
        + ".",
    ]
    yield _list(lines)
    yield (
        '<p class="small">The score is weight × quality + (1 − weight) × freedom from bias, each '
        "from 0, the worst mean of a point, to 1, the best. Intervals are 95 %, pointwise, and do "
        "not count that the best was chosen. Hatched on the map of the score: shares that are not "
        "surely worse than the best.</p>"
    )


def _languages(study: Study, summary: Mapping[str, Any]) -> Iterator[str]:
    for title in dict.fromkeys(one.title for one in study.measures if one.language):
        measures = [one for one in study.measures if one.language and one.title == title]
        rows = [
            [escape(point["name"])]
            + [short(point["measures"][one.key]["mean"]) for one in measures]
            for point in summary["points"]
            if point["seeds"]
        ]
        yield f"<details><summary>{title} by language</summary>"
        yield _table(["point", *(escape(one.language) for one in measures)], rows) + "</details>"


def _tests(study: Study, summary: Mapping[str, Any]) -> Iterator[str]:
    if not summary["tests"]:
        return
    titles = {one.key: one.label for one in study.measures}
    rows = [
        [
            escape(one["point"]),
            escape(titles[one["measure"]]),
            _signed(one["difference"]),
            *(_p(one[name]) for name in ("p_questions", "p_seeds", "p", "p_holm")),
            str(one["seeds"]),
        ]
        for one in summary["tests"]
    ]
    head = ["point", "measure", "difference", "p questions", "p seeds", "p both", "p Holm", "seeds"]
    yield f"<h2>Tests against {escape(summary['against'])}</h2>"
    yield f"<details><summary>All {len(rows)} comparisons</summary>{_table(head, rows)}</details>"


def _methods() -> Iterator[str]:
    yield "<h2>What was computed</h2>"
    for module in (differences, surface, tradeoff):
        yield f"<details><pre>{escape(str(module.__doc__).strip())}</pre>"
        yield f"<summary>{escape(str(module.__doc__).splitlines()[0])}</summary></details>"


def _redo(study: Study, summary: Mapping[str, Any]) -> Iterator[str]:
    first = next(iter(study.results.values()))
    seconds = [one["seconds"] for one in study.results.values()]
    made = summary["made_with"]
    packages = ", ".join(f"{name} {version}" for name, version in made["packages"].items())
    yield "<h2>To do it again</h2>"
    yield f"<pre>{escape(first['command'])}\npython -m jaxir.sweep report WORKDIR</pre>"
    yield (
        f"<p>jaxir {escape(made['jaxir'])}, Python {escape(made['python'])}, {escape(packages)}; "
        f"{len(made['devices'])} × {escape(made['devices'][0])}. The {len(seconds)} finished runs "
        f"trained for {sum(seconds) / 60:,.0f} minutes in all.</p>"
    )
    if study.config.model.trained_tokenizer_size:
        yield (
            "<p>The runs share a tokenizer of their own, WORKDIR/tokenizer. Training one again "
            "gives slightly other pieces: for equal figures, start from a copy of it.</p>"
        )
    for name, value in (
        ("The config", summary["config"]),
        ("The data", summary["data"]),
        ("Batches that each run has used, by kind", summary["used"]),
    ):
        text = escape(json.dumps(plain(value), indent=1, ensure_ascii=False))
        yield f"<details><summary>{name}</summary><pre>{text}</pre></details>"


def _pictures(pictures: Mapping[str, bytes], names: Iterable[str], kind: str = "maps") -> str:
    images = "".join(
        f'<img alt="{escape(name)}" src="data:image/png;base64,'
        f'{base64.b64encode(pictures[name]).decode()}">'
        for name in names
    )
    return f'<div class="{kind}">{images}</div>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>\n{body}</table></div>'


def _list(lines: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{line}</li>" for line in lines) + "</ul>"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(escape(name.replace("_", "-")) for name in names)


def _spread(point: Mapping[str, Any], key: str) -> str:
    one = point["measures"][key]
    spread = f" ±{short((one['high'] - one['low']) / 2, one['mean'])}" if point["seeds"] > 1 else ""
    return short(one["mean"]) + spread


def _signed(value: float) -> str:
    return ("+" if value > 0 else "−") + short(abs(value))


def _p(value: float) -> str:
    if math.isnan(value):
        return "-"
    return "&lt; .001" if value < 0.001 else f"{value:.3f}".replace("0.", ".", 1)


def _interval(ends: Sequence[float]) -> str:
    value, low, high = map(short, ends)
    return f"{value} ({low} to {high})"
