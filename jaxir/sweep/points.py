"""The points of a sweep: which shares are tried, and what each is called.

Dimension key: P points, K = 3 kinds.

Three kinds of batches span a simplex, whose points are shares that add up to 1. A grid of step 1/n
has (n + 1)(n + 2) / 2 points. This module needs neither data nor devices, so that a mistake is
found before anything is read.
"""

import copy
import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass

from jaxir.config import RunConfig, Shares, SweepConfig
from jaxir.errors import UserError

KINDS = tuple(field.name for field in dataclasses.fields(Shares))
# As the tables of arXiv 2408.10536 call them; its X-X is LAReQA's X-X-mono. "uniform" has equal
# shares of whichever kinds the sweep is over.
UNIFORM = "uniform"
NAMED = {
    "X-X": {"monolingual": 1.0},
    "X-Y": {"cross_lingual": 1.0},
    "multilingual": {"multilingual": 1.0},
    "hybrid": {"monolingual": 0.5, "cross_lingual": 0.5},
    UNIFORM: {},
}
FINEST_STEP = 0.01  # 5,151 points
ROUNDING = 1e-9  # shares that differ by less are one point


@dataclass(frozen=True)
class Point:
    """Shares of the sweep's three kinds, in their order; they add up to 1."""

    name: str
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Run:
    """One point with one seed: an ordinary training run."""

    point: Point
    seed: int

    @property
    def name(self) -> str:
        """Of its folder, in the sweep's."""
        return f"{self.point.name}-seed{self.seed}"


def is_sweep(config: RunConfig) -> bool:
    """Whether a config asks for several runs."""
    sweep = config.sweep
    return bool(sweep.step or sweep.named or sweep.shares)


def points(sweep: SweepConfig) -> tuple[Point, ...]:
    """The points of a sweep, those with names of one's own first, then named ones, then the grid.

    Of points with the same shares the first stays, so each is run once.

    Raises:
        UserError: no points, a name or step that is none, or shares outside the simplex.
    """
    if len(set(sweep.kinds)) != 3 or not set(sweep.kinds) <= set(KINDS):
        raise UserError(
            f"config.sweep.kinds = {sweep.kinds!r}: must be three of {', '.join(KINDS)}"
        )
    found: list[Point] = []
    for point in (*_own(sweep), *_named(sweep), *_grid(sweep)):
        if not any(_same(point, other) for other in found):
            found.append(point)
    if not found:
        raise UserError(
            "config.sweep has no points: set step (e.g. 0.25), named (e.g. 'uniform') or shares"
        )
    names = [point.name for point in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"config.sweep: two points with different shares are called {twice!r}")
    return tuple(found)


def runs(config: RunConfig) -> tuple[Run, ...]:
    """All runs of a sweep: every point with the first seed, then with the next."""
    tried = points(config.sweep)
    seeds = range(config.seed, config.seed + config.sweep.seeds)
    return tuple(Run(point, seed) for seed in seeds for point in tried)


def config_of(config: RunConfig, run: Run) -> RunConfig:
    """The config of one run of a sweep."""
    one = copy.deepcopy(config)
    shares = dict.fromkeys(KINDS, 0.0) | dict(zip(config.sweep.kinds, run.point.shares))
    one.seed, one.hybrid.shares, one.sweep = run.seed, Shares(**shares), SweepConfig()
    return one


def _same(one: Point, other: Point) -> bool:
    return all(abs(a - b) < ROUNDING for a, b in zip(one.shares, other.shares))


def _own(sweep: SweepConfig) -> Iterator[Point]:
    for name, shares in sweep.shares.items():
        if not re.fullmatch(r"\w[\w.+-]*", name):
            raise UserError(
                f"config.sweep.shares[{name!r}]: a name, which a folder gets, is letters, digits "
                "and any of . + - _"
            )
        values = dataclasses.asdict(shares)
        outside = [kind for kind in KINDS if values[kind] and kind not in sweep.kinds]
        if outside:
            raise UserError(
                f"config.sweep.shares[{name!r}].{outside[0]} = {values[outside[0]]:g}: outside the "
                f"simplex of config.sweep.kinds, {', '.join(sweep.kinds)}"
            )
        total = sum(values.values())
        yield Point(name, tuple(values[kind] / total for kind in sweep.kinds))


def _named(sweep: SweepConfig) -> Iterator[Point]:
    for name in sweep.named:
        if name not in NAMED:
            raise UserError(
                f"config.sweep.named: {name!r} is no point; there are {', '.join(NAMED)}"
            )
        shares = NAMED[name] or dict.fromkeys(sweep.kinds, 1 / len(sweep.kinds))
        if not set(shares) <= set(sweep.kinds):
            raise UserError(
                f"config.sweep.named: {name!r} needs {', '.join(shares)} among config.sweep.kinds"
            )
        yield Point(name, tuple(shares.get(kind, 0.0) for kind in sweep.kinds))


def _grid(sweep: SweepConfig) -> Iterator[Point]:
    """By falling share of the first kind, then of the second; named after all three in percent."""
    if not sweep.step:
        return
    parts = round(1 / sweep.step) if sweep.step > 0 else 0
    if not FINEST_STEP - ROUNDING <= sweep.step <= 1 or abs(parts * sweep.step - 1) > 1e-6:
        raise UserError(
            f"config.sweep.step = {sweep.step:g}: must divide 1 and be at least {FINEST_STEP}, "
            "e.g. 0.25"
        )
    for first in range(parts, -1, -1):
        for second in range(parts - first, -1, -1):
            shares = tuple(x / parts for x in (first, second, parts - first - second))
            yield Point("-".join(f"{100 * share:.3g}" for share in shares), shares)
