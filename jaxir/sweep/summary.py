"""The contents of a sweep's report.json and mixtures.csv."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxir.evaluation.tables import describe_size
from jaxir.sweep.mixtures import Mixture
from jaxir.sweep.response_surface import TERMS, Surface
from jaxir.sweep.significance_tests import MixtureDifference
from jaxir.sweep.study import Study
from jaxir.sweep.tradeoff import TradeOff, means, pareto_front

_MADE_WITH = ("jaxir", "packages", "hub", "python", "devices")
_P_VALUES = ("p_questions", "p_seeds", "p", "p_holm")


def summarize(
    study: Study,
    differences: list[MixtureDifference],
    why_no_test: str,
    surfaces: Mapping[str, Surface | None],
    trade: TradeOff | None,
    reference: Mixture | None,
) -> dict[str, Any]:
    """Contents of report.json.

    Args:
        study: values of the runs.
        differences: tests against the reference mixture.
        why_no_test: reason why there are none, else "".
        surfaces: by key of the metric; None if the runs determine none.
        trade: score of the runs; None without both quality and bias.
        reference: the mixture that the others are tested against; None without tests.
    """
    first = next(iter(study.results.values()))
    trained = first["datasets"][study.dataset]["trained"]
    return {
        "dataset": study.dataset,
        "dataset_size": describe_size({"trained": trained}),
        "languages": study.languages,
        "kinds": study.config.sweep.kinds,
        "seeds": study.seeds,
        "missing": study.missing,
        "mixtures": [_mixture(study, mixture) for mixture in study.mixtures],
        "against": reference.name if reference else None,
        "why_no_test": why_no_test,
        "tests": [dataclasses.asdict(difference) for difference in differences],
        "surfaces": {key: _surface(surface) for key, surface in surfaces.items()},
        "trade_off": _trade_off(trade, surfaces, study) if trade is not None else None,
        "pareto_front": _pareto_front(study) if trade is not None else [],
        "config": dataclasses.asdict(study.config),
        "data": first["data"],
        "made_with": {name: first[name] for name in _MADE_WITH},
        "batches_by_kind": {
            name: results["used"]["kinds"] for name, results in study.results.items()
        },
    }


def _mixture(study: Study, mixture: Mixture) -> dict[str, Any]:
    of_runs = study.of_mixture(mixture)
    return {
        "name": mixture.name,
        "shares": dict(zip(study.config.sweep.kinds, mixture.shares)),
        "seeds": len(of_runs),
        "metrics": {
            metric.key: {"mean": values.mean(), "min": values.min(), "max": values.max()}
            for metric, values in zip(study.metrics, of_runs.T)
            if len(values)
        },
    }


def _surface(surface: Surface | None) -> dict[str, Any] | None:
    if surface is None:
        return None
    return {
        "terms": TERMS,
        "coefficients": surface.coefficients,
        "standard_errors": np.sqrt(np.diag(surface.covariance)),
        "degrees_of_freedom": surface.degrees_of_freedom,
        "residual_std": surface.residual_std,
        "r_squared": surface.r_squared,
        "p_lack_of_fit": surface.p_lack_of_fit,
    }


def _trade_off(
    trade: TradeOff, surfaces: Mapping[str, Surface | None], study: Study
) -> dict[str, Any]:
    """The score, and the expected values at the best shares as [value, low, high]."""
    described: dict[str, Any] = {
        "quality_weight": trade.weight,
        "quality_range": trade.quality_range,
        "bias_range": trade.bias_range,
        "surface": _surface(trade.surface),
        "best": None,
    }
    if trade.surface is None or trade.best is None:
        return described
    kinds, best = study.config.sweep.kinds, trade.best
    as_good = best.grid[best.as_good]

    def interval(surface: Surface, other: np.ndarray | None = None) -> list[float]:
        row = best.shares[None]
        value, margin = surface.at(row) if other is None else surface.minus(row, other)
        return [float(value[0]), float(value[0] - margin[0]), float(value[0] + margin[0])]

    described["best"] = {
        "shares": dict(zip(kinds, best.shares)),
        # lowest and highest share of each kind among the mixtures that are as good
        "as_good": dict(zip(kinds, zip(as_good.min(axis=0), as_good.max(axis=0)))),
        "score": interval(trade.surface),
        "score_over_uniform": interval(trade.surface, np.full(3, 1 / 3)),
        **{
            key: study.metric(key).unscaled(np.array(interval(surface)))
            for key, surface in surfaces.items()
            if surface is not None
        },
    }
    return described


def _pareto_front(study: Study) -> list[str]:
    keys = (study.metric_set.quality, study.metric_set.bias)
    on_front = pareto_front(*(means(study, study.values[:, study.column(key)]) for key in keys))
    return [mixture.name for mixture, chosen in zip(study.mixtures, on_front) if chosen]


def mixture_rows(
    study: Study, differences: Iterable[MixtureDifference]
) -> Iterator[dict[str, Any]]:
    """Rows of mixtures.csv, one for each mixture and metric."""
    tests = {(test.mixture, test.metric): dataclasses.asdict(test) for test in differences}
    for mixture in study.mixtures:
        for metric, values in zip(study.metrics, study.of_mixture(mixture).T):
            spread = (values.mean(), values.min(), values.max()) if len(values) else (None,) * 3
            test = tests.get((mixture.name, metric.key), {})
            yield {
                "mixture": mixture.name,
                **dict(zip(study.config.sweep.kinds, mixture.shares)),
                "metric": metric.key,
                "seeds": len(values),
                **dict(zip(("mean", "min", "max"), spread)),
                **{name: test.get(name) for name in ("difference", *_P_VALUES)},
            }
