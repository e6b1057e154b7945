"""A sweep's report as JSON and CSV have it."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxir.evaluation.tables import describe_size
from jaxir.sweep.differences import Difference
from jaxir.sweep.points import Point
from jaxir.sweep.results import Study
from jaxir.sweep.surface import TERMS, Surface
from jaxir.sweep.tradeoff import TradeOff, means, pareto_front

_MADE_WITH = ("jaxir", "packages", "hub", "python", "devices")


def summarize(
    study: Study,
    found: list[Difference],
    why_no_test: str,
    surfaces: Mapping[str, Surface | None],
    trade: TradeOff | None,
    reference: Point | None,
) -> dict[str, Any]:
    """Everything but the pictures, as JSON has it."""
    first = next(iter(study.results.values()))
    systems = first["tasks"][study.task]["trained"]
    return {
        "task": study.task,
        "size": describe_size({"trained": systems}),
        "languages": study.languages,
        "kinds": study.config.sweep.kinds,
        "seeds": study.seeds,
        "missing": study.missing,
        "points": [_point(study, point) for point in study.points],
        "against": reference.name if reference else None,
        "why_no_test": why_no_test,
        "tests": [dataclasses.asdict(one) for one in found],
        "surfaces": {key: _surface(one) for key, one in surfaces.items()},
        "trade_off": _trade_off(trade, surfaces, study) if trade is not None else None,
        "pareto_front": _front(study) if trade is not None else [],
        "config": dataclasses.asdict(study.config),
        "data": first["data"],
        "made_with": {name: first[name] for name in _MADE_WITH},
        "used": {name: results["used"]["kinds"] for name, results in study.results.items()},
    }


def _point(study: Study, point: Point) -> dict[str, Any]:
    values = study.of(point)
    return {
        "name": point.name,
        "shares": dict(zip(study.config.sweep.kinds, point.shares)),
        "seeds": len(values),
        "measures": {
            one.key: {"mean": some.mean(), "low": some.min(), "high": some.max()}
            for one, some in zip(study.measures, values.T)
            if len(some)
        },
    }


def _surface(surface: Surface | None) -> dict[str, Any] | None:
    if surface is None:
        return None
    return {
        "terms": TERMS,
        "coefficients": surface.coefficients,
        "standard_errors": np.sqrt(np.diag(surface.covariance)),
        "freedom": surface.freedom,
        "deviation": surface.deviation,
        "explained": surface.explained,
        "p_lack_of_fit": surface.p_lack_of_fit,
    }


def _trade_off(
    trade: TradeOff, surfaces: Mapping[str, Surface | None], study: Study
) -> dict[str, Any]:
    """The score, and what is expected at the best shares, each with the ends of its interval."""
    told: dict[str, Any] = {
        "quality_weight": trade.weight,
        "quality_range": trade.quality_range,
        "bias_range": trade.bias_range,
        "surface": _surface(trade.surface),
        "best": None,
    }
    if trade.surface is None or trade.best is None:
        return told
    kinds, best = study.config.sweep.kinds, trade.best
    as_good = best.grid[best.as_good]

    def interval(surface: Surface, other: np.ndarray | None = None) -> list[float]:
        row = best.shares[None]
        value, margin = surface.at(row) if other is None else surface.minus(row, other)
        return [float(value[0]), float(value[0] - margin[0]), float(value[0] + margin[0])]

    told["best"] = {
        "shares": dict(zip(kinds, best.shares)),
        "as_good": dict(zip(kinds, zip(as_good.min(axis=0), as_good.max(axis=0)))),
        "score": interval(trade.surface),
        "score_over_uniform": interval(trade.surface, np.full(3, 1 / 3)),
        **{
            key: study.measure(key).unscaled(np.array(interval(one)))
            for key, one in surfaces.items()
            if one is not None
        },
    }
    return told


def _front(study: Study) -> list[str]:
    keys = (study.comparison.quality, study.comparison.bias)
    on_front = pareto_front(*(means(study, study.figures[:, study.column(key)]) for key in keys))
    return [point.name for point, best in zip(study.points, on_front) if best]


def point_rows(study: Study, found: Iterable[Difference]) -> Iterator[dict[str, Any]]:
    """One flat record a point and measure."""
    tests = {(one.point, one.measure): dataclasses.asdict(one) for one in found}
    for point in study.points:
        values = study.of(point)
        for column, measure in enumerate(study.measures):
            some = values[:, column]
            spread = (some.mean(), some.min(), some.max()) if len(some) else (None,) * 3
            test = tests.get((point.name, measure.key), {})
            yield {
                "point": point.name,
                **dict(zip(study.config.sweep.kinds, point.shares)),
                "measure": measure.key,
                "seeds": len(some),
                **dict(zip(("mean", "low", "high"), spread)),
                **{
                    name: test.get(name)
                    for name in ("difference", "p_questions", "p_seeds", "p", "p_holm")
                },
            }
