"""The HTML page of a sweep's report, in one file without external resources."""

import base64
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from jaxir.evaluation.settings import json_value
from jaxir.sweep import response_surface, significance_tests, tradeoff
from jaxir.sweep.significance_tests import SIGNIFICANT
from jaxir.sweep.study import Study, overall_metrics
from jaxir.sweep.ternary_plot import short

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
.wide { overflow-x: auto; } .narrow { max-width: 760px; }
details { margin: .6em 0; } summary { cursor: pointer; }
"""


def page(study: Study, summary: Mapping[str, Any], plots: Mapping[str, bytes]) -> str:
    """Return the whole page.

    Args:
        study: values of the runs.
        summary: contents of `report.json`.
        plots: PNG, by name.
    """
    title = f"{len(study.mixtures)} mixtures of batches, {study.dataset}"
    seeds = f"{len(study.seeds)} seed{'s' if len(study.seeds) > 1 else ''}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>Mixtures of {_listed(study.config.sweep.kinds)} batches; {seeds} for each mixture, "
        f"{len(study.runs)} runs of {study.config.steps:,} steps with {study.config.batch_size:,} "
        f"pairs each. Evaluated on {escape(study.dataset)}: {summary['dataset_size']}, "
        f"{len(study.languages)} languages ({' '.join(map(escape, study.languages))}).</p>",
        *_missing(summary),
        "<h2>Summary</h2>",
        _list(_findings(study, summary)),
        "<h2>Mixtures</h2>",
        *_mixtures(study, summary),
        "<h2>Metrics over the simplex of mixtures</h2>",
        '<p class="small">Dots are means of mixtures over seeds, the background is the fitted '
        "surface; brighter is better.</p>",
        _images(plots, [name for name in plots if name.startswith("map_")]),
        *_surfaces(study, summary),
        *_trade_off(study, summary, plots),
        "<h2>Languages</h2>",
        _images(plots, ["languages"], "wide"),
        *_languages(study, summary),
        *_tests(study, summary),
        *_methods(),
        *_reproduction(study, summary),
    ]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}'
        '</title><meta name="viewport" content="width=device-width">'
        f"<style>{STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _missing(summary: Mapping[str, Any]) -> Iterator[str]:
    if summary["missing"]:
        by_reason: dict[str, list[str]] = {}
        for name, reason in summary["missing"].items():
            by_reason.setdefault(reason, []).append(name)
        rows = _list(
            f"{escape(reason)}: {escape(', '.join(names))}" for reason, names in by_reason.items()
        )
        yield (
            f'<div class="missing"><b>Runs without results: {len(summary["missing"])}.</b> '
            "Means are over the finished seeds of a mixture; if some are missing, the table gives "
            f"their number.{rows}</div>"
        )
    if summary["why_no_test"]:
        yield (
            '<div class="missing"><b>No significance tests:</b> '
            f"{escape(summary['why_no_test'])}.</div>"
        )


def _findings(study: Study, summary: Mapping[str, Any]) -> Iterator[str]:
    tests = _tests_by_mixture(summary)
    finished = [mixture for mixture in summary["mixtures"] if mixture["seeds"]]
    for metric in overall_metrics(study):
        pick = max if metric.higher_is_better else min
        best = pick(finished, key=lambda mixture: mixture["metrics"][metric.key]["mean"])
        text = f"Best {metric.title}: <b>{escape(best['name'])}</b>, {_spread(best, metric.key)}"
        test = tests.get((best["name"], metric.key))
        if test:
            text += (
                f"; {_signed(test['difference'])} against {escape(summary['against'])} "
                f"(p {_p(test['p_holm'])})"
            )
        yield text + "."
    if summary["pareto_front"]:
        quality, bias = (
            study.metric(key).title for key in (study.metric_set.quality, study.metric_set.bias)
        )
        yield (
            f"Pareto front of {quality} (higher is better) and {bias} (lower is better): "
            f"{_listed(summary['pareto_front'])}."
        )


def _tests_by_mixture(summary: Mapping[str, Any]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """The tests by name of the mixture and key of the metric."""
    return {(test["mixture"], test["metric"]): test for test in summary["tests"]}


def _mixtures(study: Study, summary: Mapping[str, Any]) -> Iterator[str]:
    tests = _tests_by_mixture(summary)
    metrics = overall_metrics(study)
    rows = []
    for mixture in summary["mixtures"]:
        name = escape(mixture["name"])
        if mixture["seeds"] < len(study.seeds):
            name += f" ({mixture['seeds']} of {len(study.seeds)} seeds)"
        cells = [name, " · ".join(f"{share:.2f}" for share in mixture["shares"].values())]
        for metric in metrics:
            text = _spread(mixture, metric.key) if mixture["seeds"] else "-"
            test = tests.get((mixture["name"], metric.key))
            if test and test["p_holm"] < SIGNIFICANT:
                better = (test["difference"] > 0) == metric.higher_is_better
                style, sign = ("better", "▲") if better else ("worse", "▼")
                text = f'<span class="{style}">{text} {sign}</span>'
            cells.append(text)
        rows.append(cells)
    kinds = " ·<br>".join(kind.replace("_", "-") for kind in study.config.sweep.kinds)
    head = ["mixture", kinds]
    head += [f"{metric.title} {'↑' if metric.higher_is_better else '↓'}" for metric in metrics]
    yield _table(head, rows)
    text = "Mean ± half the range over seeds."
    if summary["tests"]:
        text += (
            f" ▲ significantly better, ▼ significantly worse than {escape(summary['against'])} "
            f"(p &lt; {SIGNIFICANT} after Holm's correction); without a mark the difference is not "
            "significant."
        )
    yield f'<p class="small">{text}</p>'


def _surfaces(study: Study, summary: Mapping[str, Any]) -> Iterator[str]:
    fitted = {key: surface for key, surface in summary["surfaces"].items() if surface}
    if not fitted:
        yield (
            "<p>No fitted surface: that takes six mixtures which determine the six terms, and at "
            "least seven finished runs.</p>"
        )
        return
    titles = {metric.key: metric.title for metric in study.metrics}
    letters = ", ".join(
        f"{letter} = {kind.replace('_', '-')}"
        for letter, kind in zip("abc", study.config.sweep.kinds)
    )
    rows = [
        [
            titles[key],
            *(
                f"{short(value)} ±{short(error, value)}"
                for value, error in zip(surface["coefficients"], surface["standard_errors"])
            ),
            short(surface["residual_std"]),
            f"{surface['r_squared']:.3f}",
            _p(surface["p_lack_of_fit"]),
        ]
        for key, surface in fitted.items()
    ]
    head = ["metric", *response_surface.TERMS, "residual SD", "R²", "p of lack of fit"]
    yield "<details open><summary>Fitted surfaces</summary>" + _table(head, rows)
    yield (
        f'<p class="small">Scheffé quadratics, {letters}; coefficients ± standard errors, those of '
        "rank distance for its logarithm. A small p of lack of fit (&lt; .05) means that the "
        "surface does not follow the dots: trust the dots more than the surface and its intervals."
        "</p></details>"
    )


def _trade_off(
    study: Study, summary: Mapping[str, Any], plots: Mapping[str, bytes]
) -> Iterator[str]:
    trade = summary["trade_off"]
    if not trade:
        return
    yield "<h2>Quality against language bias</h2>"
    yield _images(plots, ["pareto"], "narrow")
    best = trade["best"]
    if not best:
        return
    shares = ", ".join(
        f"{kind.replace('_', '-')} {share:.2f} (not significantly worse: {low:.2f} to {high:.2f})"
        for (kind, share), (low, high) in zip(best["shares"].items(), best["as_good"].values())
    )
    expected = ", ".join(
        f"{study.metric(key).title} {_interval(best[key])}"
        for key in (study.metric_set.quality, study.metric_set.bias)
    )
    yield _list(
        [
            f"Predicted best shares at quality weight {trade['quality_weight']:g}: "
            f"<b>{shares}</b>.",
            f"Expected score {_interval(best['score'])}; above uniform shares by "
            f"{_interval(best['score_over_uniform'])}.",
            f"Expected metrics: {expected}.",
        ]
    )
    yield (
        '<p class="small">The score is weight × quality + (1 − weight) × low bias, each scaled '
        "from 0, the worst mean of a mixture, to 1, the best. Intervals are 95%, pointwise, and "
        "ignore that the best shares were selected. The score's map hatches the mixtures that are "
        "not significantly worse than the best.</p>"
    )


def _languages(study: Study, summary: Mapping[str, Any]) -> Iterator[str]:
    for title in dict.fromkeys(metric.title for metric in study.metrics if metric.language):
        metrics = [m for m in study.metrics if m.language and m.title == title]
        rows = [
            [escape(mixture["name"])]
            + [short(mixture["metrics"][metric.key]["mean"]) for metric in metrics]
            for mixture in summary["mixtures"]
            if mixture["seeds"]
        ]
        head = ["mixture", *(escape(metric.language) for metric in metrics)]
        yield f"<details><summary>{title} by language</summary>{_table(head, rows)}</details>"


def _tests(study: Study, summary: Mapping[str, Any]) -> Iterator[str]:
    if not summary["tests"]:
        return
    labels = {metric.key: metric.label for metric in study.metrics}
    rows = [
        [
            escape(test["mixture"]),
            escape(labels[test["metric"]]),
            _signed(test["difference"]),
            *(_p(test[name]) for name in ("p_questions", "p_seeds", "p", "p_holm")),
            str(test["seeds"]),
        ]
        for test in summary["tests"]
    ]
    p_values = ("p over questions", "p over seeds", "p over both", "p after Holm")
    head = ["mixture", "metric", "difference", *p_values, "seeds"]
    yield f"<h2>Significance tests against {escape(summary['against'])}</h2>"
    yield f"<details><summary>All {len(rows)} tests</summary>{_table(head, rows)}</details>"


def _methods() -> Iterator[str]:
    yield "<h2>Methods</h2>"
    for module in (significance_tests, response_surface, tradeoff):
        text = str(module.__doc__).strip()
        yield f"<details><summary>{escape(text.splitlines()[0])}</summary>"
        yield f"<pre>{escape(text)}</pre></details>"


def _reproduction(study: Study, summary: Mapping[str, Any]) -> Iterator[str]:
    """The commands, versions, config and data with which the sweep was made."""
    first = next(iter(study.results.values()))
    seconds = [results["seconds"] for results in study.results.values()]
    made = summary["made_with"]
    packages = ", ".join(f"{name} {version}" for name, version in made["packages"].items())
    yield "<h2>Reproduction</h2>"
    yield f"<pre>{escape(first['command'])}\npython -m jaxir.sweep report WORKDIR</pre>"
    yield (
        f"<p>jaxir {escape(made['jaxir'])}, Python {escape(made['python'])}, {escape(packages)}; "
        f"{len(made['devices'])} × {escape(made['devices'][0])}. The {len(seconds)} finished runs "
        f"trained for {sum(seconds) / 60:,.0f} minutes in total.</p>"
    )
    if summary["config"]["model"]["trained_tokenizer_size"]:
        yield (
            "<p>The runs share a tokenizer that the sweep trained, WORKDIR/tokenizer. Training it "
            "again gives slightly different pieces: for equal values, start from a copy of it.</p>"
        )
    for name, value in (
        ("Config", summary["config"]),
        ("Data", summary["data"]),
        ("Number of batches of each run, by kind", summary["batches_by_kind"]),
    ):
        text = escape(json.dumps(json_value(value), indent=1, ensure_ascii=False))
        yield f"<details><summary>{name}</summary><pre>{text}</pre></details>"


def _images(plots: Mapping[str, bytes], names: Iterable[str], layout: str = "maps") -> str:
    images = "".join(
        f'<img alt="{escape(name)}" src="data:image/png;base64,'
        f'{base64.b64encode(plots[name]).decode()}">'
        for name in names
    )
    return f'<div class="{layout}">{images}</div>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>\n{body}</table></div>'


def _list(lines: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{line}</li>" for line in lines) + "</ul>"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(escape(name.replace("_", "-")) for name in names)


def _spread(mixture: Mapping[str, Any], key: str) -> str:
    """Format the mean over seeds, with half the range if there are several."""
    values = mixture["metrics"][key]
    mean = short(values["mean"])
    if mixture["seeds"] < 2:
        return mean
    return f"{mean} ±{short((values['max'] - values['min']) / 2, values['mean'])}"


def _signed(value: float) -> str:
    return ("+" if value > 0 else "−") + short(abs(value))


def _p(value: float) -> str:
    if math.isnan(value):
        return "-"
    return "&lt; .001" if value < 0.001 else f"{value:.3f}".replace("0.", ".", 1)


def _interval(ends: Sequence[float]) -> str:
    value, low, high = map(short, ends)
    return f"{value} ({low} to {high})"
