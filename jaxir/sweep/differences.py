"""Does a point differ from another one, or do the seeds and the questions explain it?

Dimension key: P points, S seeds, U questions, M measures.

Two points are compared by the runs that have a seed in common, so seeds are blocks: d_us is what
question u adds to the difference of the two runs of seed s. Three probabilities that chance alone
makes a difference as large, either way:

    p_questions  Randomisation over questions (Smucker, Allan & Carterette, CIKM 2007): if the two
                 points were alike, a question's values might as well have come from the other. All
                 queries of a question, in all its runs, are exchanged together, 20,000 times. It
                 speaks of other questions to these very models.
    p_seeds      Student's t over seeds: mean difference over the seeds, and as its error the
                 residual of figure = point + seed over all runs of the sweep (randomised complete
                 blocks: Montgomery, Design and Analysis of Experiments, 4.1): one error for all
                 points, as if seeds mattered alike at each. It speaks of other seeds on these very
                 questions.
    p            Both at once: min F' (Clark, Journal of Verbal Learning and Verbal Behavior 12,
                 1973), from the t over seeds and that over questions. It speaks of other questions
                 to models of other seeds, and is the one that counts.

`p_holm` is p corrected for all comparisons of its family (Holm, Scandinavian Journal of Statistics
6, 1979): all points by all measures over all languages, and apart from them all points by all
measures of single languages.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats
from jaxtyping import Float

from jaxir.evaluation.significance import exchange
from jaxir.sweep.points import Point
from jaxir.sweep.results import Study

PERMUTATIONS = 20_000
FEWEST_SEEDS = 2


@dataclass(frozen=True)
class Difference:
    """A point minus another one, in one measure."""

    point: str
    measure: str
    seeds: int  # that both have
    difference: float
    p_questions: float
    p_seeds: float
    p: float
    p_holm: float = np.nan


def differences(study: Study, against: Point) -> list[Difference]:
    """Every other point against one, in every measure; those with fewer than two seeds left out."""
    pairs = [(point, *_paired(study, point, against)) for point in study.points if point != against]
    pairs = [pair for pair in pairs if len(pair[1]) >= FEWEST_SEEDS]
    if not pairs:
        return []
    measures = len(study.measures)
    # U, P, M: means over seeds
    parts = np.stack(
        [
            (study.contributions[one] - study.contributions[other]).mean(axis=0)
            for _, one, other in pairs
        ],
        axis=1,
    )
    by_questions = exchange(np.nan_to_num(parts).reshape(len(parts), -1), PERMUTATIONS).reshape(
        -1, measures
    )
    error, freedom = seed_error(
        study.figures, [run.point.name for run in study.runs], [run.seed for run in study.runs]
    )
    found = []
    for number, (point, one, other) in enumerate(pairs):
        gap = (study.figures[one] - study.figures[other]).mean(axis=0)
        over_seeds = _ratio(gap, np.sqrt(2 * error / len(one)))
        over_questions, questions = over_rows(parts[:, number])
        p_seeds = 2 * scipy.stats.t.sf(np.abs(over_seeds), freedom)
        both = min_f(over_seeds, freedom, over_questions, questions)
        found += [
            Difference(point.name, measure.key, len(one), *map(float, values))
            for measure, *values in zip(study.measures, gap, by_questions[number], p_seeds, both)
        ]
    return _corrected(found)


def _paired(study: Study, point: Point, against: Point) -> tuple[list[int], list[int]]:
    """Runs of both points, those of one seed at the same place; seeds that one lacks left out."""
    there = ~np.isnan(study.figures).all(axis=1)
    place = {(run.point, run.seed): i for i, run in enumerate(study.runs) if there[i]}
    shared = [x for x in study.seeds if {(point, x), (against, x)} <= place.keys()]
    return [place[point, x] for x in shared], [place[against, x] for x in shared]


def seed_error(
    figures: Float[np.ndarray, "R M"], points: Sequence[object], seeds: Sequence[object]
) -> tuple[Float[np.ndarray, "M"], int]:
    """Mean square that is left of figure = point + seed, and its degrees of freedom.

    Rows of NaN are runs without results.
    """
    there = ~np.isnan(figures).all(axis=1)
    columns = [
        np.array([label == one for label in labels], float)
        for labels in (points, seeds)
        for one in dict.fromkeys(labels)
    ]
    design = np.stack(columns, axis=1)[there]
    known = figures[there]
    rank = int(np.linalg.matrix_rank(design))
    freedom = len(design) - rank
    left = known - design @ np.linalg.lstsq(design, known, rcond=None)[0]
    return (left**2).sum(axis=0) / max(freedom, 1), freedom


def over_rows(
    parts: Float[np.ndarray, "U M"],
) -> tuple[Float[np.ndarray, "M"], Float[np.ndarray, "M"]]:
    """Student's t of sums over questions, and its degrees of freedom; NaN does not count."""
    count = (~np.isnan(parts)).sum(axis=0)
    spread = np.nanvar(parts, axis=0, ddof=1)
    return _ratio(np.nansum(parts, axis=0), np.sqrt(count * spread)), count - 1


def min_f(
    t_one: Float[np.ndarray, "M"],
    freedom_one: Float[np.ndarray, "M"] | int,
    t_other: Float[np.ndarray, "M"],
    freedom_other: Float[np.ndarray, "M"] | int,
) -> Float[np.ndarray, "M"]:
    """P value of Clark's min F', from the t values over two random factors."""
    one, other = t_one**2, t_other**2
    both = one + other
    # halves of an infinite F are infinite too
    with np.errstate(invalid="ignore", divide="ignore"):
        f = np.where(np.isinf(one), other, np.where(np.isinf(other), one, one * other / both))
        freedom = both**2 / (one**2 / freedom_other + other**2 / freedom_one)
    freedom = np.where(
        np.isinf(one), freedom_other, np.where(np.isinf(other), freedom_one, freedom)
    )
    return np.where(both > 0, scipy.stats.f.sf(f, 1, freedom), 1.0)


def holm(p_values: Sequence[float]) -> Float[np.ndarray, "P"]:
    """Holm's step-down correction; reject what is under the level, and no more often in error."""
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def _corrected(found: list[Difference]) -> list[Difference]:
    families = [
        [i for i, one in enumerate(found) if (one.measure.count("/") == 2) == single]
        for single in (False, True)
    ]
    for family in families:
        for place, value in zip(family, holm([found[i].p for i in family])):
            found[place] = dataclasses.replace(found[place], p_holm=float(value))
    return found


def _ratio(gap: Float[np.ndarray, "M"], error: Float[np.ndarray, "M"]) -> Float[np.ndarray, "M"]:
    """Gap over error; 0 where there is no gap, whatever its error."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(gap == 0, 0.0, gap / error)
