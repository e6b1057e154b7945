"""Significance tests between mixtures: do they differ, beyond what seeds and questions explain?

Dimension key: P mixtures, R runs, U questions, M metrics.

A question is a group of queries that ask the same thing in several languages. Two mixtures are
compared by the seeds that both have, so seeds are blocks: d_us is question u's part of the
difference between the two runs of seed s. Each metric gets three p values, all two-sided:

    p_questions  Randomization test over questions (Smucker, Allan & Carterette, CIKM 2007): if the
                 mixtures were equally good, a question's values could have come from either. All
                 queries of a question, in all its runs, are swapped together, 20,000 times. It
                 generalizes to other questions, for these very models.
    p_seeds      Student's t over seeds. The difference is the mean over seeds; its error is the
                 residual of value = mixture + seed over all runs of the sweep (randomized complete
                 block design: Montgomery, Design and Analysis of Experiments, 4.1), which assumes
                 that seeds matter equally for all mixtures. It generalizes to other seeds, for
                 these very questions.
    p            Both: min F' (Clark, Journal of Verbal Learning and Verbal Behavior 12, 1973), from
                 the t over seeds and the t over questions. It generalizes to other questions and
                 other seeds, and is the one to judge by.

`p_holm` is p after Holm's correction for multiple comparisons (Scandinavian Journal of Statistics
6, 1979), over two families: all mixtures by all metrics over all languages, and all mixtures by all
metrics of single languages.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats
from jaxtyping import Float

from jaxir.evaluation.significance import sign_flip_p_values
from jaxir.sweep.mixtures import Mixture
from jaxir.sweep.study import Study

PERMUTATIONS = 20_000
FEWEST_SEEDS = 2
SIGNIFICANT = 0.05  # level of the differences that the report points out


@dataclass(frozen=True)
class MixtureDifference:
    """A mixture minus the reference mixture, in one metric, with its p values."""

    mixture: str
    metric: str  # key
    seeds: int  # number of seeds that both mixtures have
    difference: float
    p_questions: float
    p_seeds: float
    p: float
    p_holm: float = np.nan


def mixture_differences(study: Study, reference: Mixture) -> list[MixtureDifference]:
    """Test every other mixture against the reference, in every metric.

    Mixtures that share fewer than two seeds with the reference are left out.
    """
    pairs = [
        (mixture, *_paired_runs(study, mixture, reference))
        for mixture in study.mixtures
        if mixture != reference
    ]
    pairs = [pair for pair in pairs if len(pair[1]) >= FEWEST_SEEDS]
    if not pairs:
        return []
    metrics = len(study.metrics)
    # U, P, M: means over seeds
    parts = np.stack(
        [
            (study.contributions[ours] - study.contributions[theirs]).mean(axis=0)
            for _, ours, theirs in pairs
        ],
        axis=1,
    )
    # one set of random signs serves all mixtures and metrics, as columns of one matrix
    columns = np.nan_to_num(parts).reshape(len(parts), -1)
    p_questions = sign_flip_p_values(columns, PERMUTATIONS).reshape(-1, metrics)
    error, seed_freedom = seed_error(
        study.values, [run.mixture.name for run in study.runs], [run.seed for run in study.runs]
    )
    differences = []
    for i, (mixture, ours, theirs) in enumerate(pairs):
        difference = (study.values[ours] - study.values[theirs]).mean(axis=0)
        # a difference of two means over seeds has twice the variance of one
        t_seeds = _ratio(difference, np.sqrt(2 * error / len(ours)))
        t_questions, question_freedom = question_t(parts[:, i])
        p_seeds = 2 * scipy.stats.t.sf(np.abs(t_seeds), seed_freedom)
        p = min_f(t_seeds, seed_freedom, t_questions, question_freedom)
        differences += [
            MixtureDifference(mixture.name, metric.key, len(ours), *map(float, values))
            for metric, *values in zip(study.metrics, difference, p_questions[i], p_seeds, p)
        ]
    return _holm_corrected(differences)


def _paired_runs(study: Study, mixture: Mixture, reference: Mixture) -> tuple[list[int], list[int]]:
    """Indices of both mixtures' finished runs, paired by seed."""
    finished = ~np.isnan(study.values).all(axis=1)
    index = {(run.mixture, run.seed): i for i, run in enumerate(study.runs) if finished[i]}
    shared = [x for x in study.seeds if {(mixture, x), (reference, x)} <= index.keys()]
    return [index[mixture, x] for x in shared], [index[reference, x] for x in shared]


def seed_error(
    values: Float[np.ndarray, "R M"], mixtures: Sequence[object], seeds: Sequence[object]
) -> tuple[Float[np.ndarray, "M"], int]:
    """Residual mean square of value = mixture + seed, and its degrees of freedom.

    Args:
        values: of all runs; rows of NaN are runs without results.
        mixtures: of each run.
        seeds: of each run.
    """
    finished = ~np.isnan(values).all(axis=1)
    # an indicator for each mixture and each seed; they are linearly dependent, hence the rank
    indicators = [
        np.array([label == level for label in labels], float)
        for labels in (mixtures, seeds)
        for level in dict.fromkeys(labels)
    ]
    design = np.stack(indicators, axis=1)[finished]
    known = values[finished]
    rank = int(np.linalg.matrix_rank(design))
    freedom = len(design) - rank
    residuals = known - design @ np.linalg.lstsq(design, known, rcond=None)[0]
    return (residuals**2).sum(axis=0) / max(freedom, 1), freedom


def question_t(
    parts: Float[np.ndarray, "U M"],
) -> tuple[Float[np.ndarray, "M"], Float[np.ndarray, "M"]]:
    """Student's t of the sums over questions, and its degrees of freedom; NaN does not count."""
    count = (~np.isnan(parts)).sum(axis=0)
    variance = np.nanvar(parts, axis=0, ddof=1)
    return _ratio(np.nansum(parts, axis=0), np.sqrt(count * variance)), count - 1


def min_f(
    first_t: Float[np.ndarray, "M"],
    first_freedom: Float[np.ndarray, "M"] | int,
    second_t: Float[np.ndarray, "M"],
    second_freedom: Float[np.ndarray, "M"] | int,
) -> Float[np.ndarray, "M"]:
    """P value of Clark's min F', from the t values over two random factors."""
    first, second = first_t**2, second_t**2  # F values on 1 and `freedom` degrees
    total = first + second
    # an infinite F (a factor without any variance) leaves min F' to the other factor
    first_infinite, second_infinite = np.isinf(first), np.isinf(second)
    with np.errstate(invalid="ignore", divide="ignore"):
        f = np.where(
            first_infinite, second, np.where(second_infinite, first, first * second / total)
        )
        freedom = total**2 / (first**2 / second_freedom + second**2 / first_freedom)
    freedom = np.where(
        first_infinite, second_freedom, np.where(second_infinite, first_freedom, freedom)
    )
    return np.where(total > 0, scipy.stats.f.sf(f, 1, freedom), 1.0)


def holm(p_values: Sequence[float]) -> Float[np.ndarray, "P"]:
    """P values after Holm's step-down correction for multiple comparisons."""
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def _holm_corrected(differences: list[MixtureDifference]) -> list[MixtureDifference]:
    """Fill in `p_holm`, metrics over all languages apart from those of single languages."""
    corrected = list(differences)
    for by_language in (False, True):
        family = [
            i
            for i, difference in enumerate(differences)
            # setting/metric/language
            if (difference.metric.count("/") == 2) == by_language
        ]
        for i, p in zip(family, holm([differences[i].p for i in family])):
            corrected[i] = dataclasses.replace(differences[i], p_holm=float(p))
    return corrected


def _ratio(
    difference: Float[np.ndarray, "M"], error: Float[np.ndarray, "M"]
) -> Float[np.ndarray, "M"]:
    """Divide a difference by its error; 0 if there is no difference, even without any error."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(difference == 0, 0.0, difference / error)
