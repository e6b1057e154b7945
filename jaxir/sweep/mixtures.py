"""The mixtures of a sweep: shares of three kinds of batches, and their names.

Dimension key: P mixtures, K = 3 kinds.

The shares of a mixture add up to 1, so the mixtures of three kinds are the points of a simplex. A
grid of step 1/n over it has (n + 1)(n + 2) / 2 mixtures. This module needs neither data nor
devices, so a mistake in the config is reported before anything is read.
"""

import copy
import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass

from jaxir.config import RunConfig, Shares, SweepConfig
from jaxir.errors import UserError

KINDS = tuple(field.name for field in dataclasses.fields(Shares))
# Names from the tables of arXiv 2408.10536; its X-X is LAReQA's X-X-mono. "uniform" has equal
# shares of the three kinds of the sweep, whichever these are.
UNIFORM = "uniform"
NAMED = {
    "X-X": {"monolingual": 1.0},
    "X-Y": {"cross_lingual": 1.0},
    "multilingual": {"multilingual": 1.0},
    "hybrid": {"monolingual": 0.5, "cross_lingual": 0.5},
    UNIFORM: {},
}
FINEST_STEP = 0.01  # 5,151 mixtures
ROUNDING = 1e-9  # mixtures whose shares differ by less are the same


@dataclass(frozen=True)
class Mixture:
    """Shares of the sweep's three kinds, in the order of `SweepConfig.kinds`; they add up to 1."""

    name: str
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Run:
    """A training run of a sweep: a mixture and a seed."""

    mixture: Mixture
    seed: int

    @property
    def name(self) -> str:
        """Name of the run's folder in the sweep's workdir."""
        return f"{self.mixture.name}-seed{self.seed}"


def is_sweep(config: RunConfig) -> bool:
    """Tell whether a config asks for several runs."""
    sweep = config.sweep
    return bool(sweep.step or sweep.named or sweep.shares)


def mixtures(sweep: SweepConfig) -> tuple[Mixture, ...]:
    """List the mixtures of a sweep: those of `shares`, then those of `named`, then the grid.

    Of mixtures with the same shares only the first is kept, so each is trained once.

    Raises:
        UserError: no mixtures, an unknown name, an impossible step, or shares of other kinds.
    """
    if len(set(sweep.kinds)) != 3 or not set(sweep.kinds) <= set(KINDS):
        raise UserError(
            f"config.sweep.kinds = {sweep.kinds!r}: must be three of {', '.join(KINDS)}"
        )
    distinct: list[Mixture] = []
    for mixture in (*_from_shares(sweep), *_from_names(sweep), *_grid(sweep)):
        if not any(_same_shares(mixture, other) for other in distinct):
            distinct.append(mixture)
    if not distinct:
        raise UserError(
            "config.sweep has no mixtures: set step (e.g. 0.25), named (e.g. 'uniform') or shares"
        )
    names = [mixture.name for mixture in distinct]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(
            f"config.sweep: two mixtures with different shares are called {twice!r}; rename the "
            "one in config.sweep.shares"
        )
    return tuple(distinct)


def runs(config: RunConfig) -> tuple[Run, ...]:
    """List the runs of a sweep: every mixture with the first seed, then with the next."""
    tried = mixtures(config.sweep)
    seeds = range(config.seed, config.seed + config.sweep.seeds)
    return tuple(Run(mixture, seed) for seed in seeds for mixture in tried)


def config_of(config: RunConfig, run: Run) -> RunConfig:
    """Return the config of a single run of a sweep."""
    of_run = copy.deepcopy(config)
    shares = dict.fromkeys(KINDS, 0.0) | dict(zip(config.sweep.kinds, run.mixture.shares))
    of_run.seed, of_run.hybrid.shares, of_run.sweep = (
        run.seed,
        Shares(**shares),
        SweepConfig(),
    )
    return of_run


def _same_shares(first: Mixture, second: Mixture) -> bool:
    return all(abs(a - b) < ROUNDING for a, b in zip(first.shares, second.shares))


def _from_shares(sweep: SweepConfig) -> Iterator[Mixture]:
    for name, shares in sweep.shares.items():
        if not re.fullmatch(r"\w[\w.+-]*", name):
            raise UserError(
                f"config.sweep.shares[{name!r}]: the name becomes that of a folder; use letters, "
                "digits and any of . + - _"
            )
        values = dataclasses.asdict(shares)
        outside = [kind for kind in KINDS if values[kind] and kind not in sweep.kinds]
        if outside:
            raise UserError(
                f"config.sweep.shares[{name!r}].{outside[0]} = {values[outside[0]]:g}: not one of "
                f"config.sweep.kinds, {', '.join(sweep.kinds)}"
            )
        total = sum(values.values())
        yield Mixture(name, tuple(values[kind] / total for kind in sweep.kinds))


def _from_names(sweep: SweepConfig) -> Iterator[Mixture]:
    for name in sweep.named:
        if name not in NAMED:
            raise UserError(
                f"config.sweep.named: {name!r} is no mixture; the names are {', '.join(NAMED)}"
            )
        shares = NAMED[name] or dict.fromkeys(sweep.kinds, 1 / len(sweep.kinds))
        if not set(shares) <= set(sweep.kinds):
            raise UserError(
                f"config.sweep.named: {name!r} needs {', '.join(shares)} among config.sweep.kinds"
            )
        yield Mixture(name, tuple(shares.get(kind, 0.0) for kind in sweep.kinds))


def _grid(sweep: SweepConfig) -> Iterator[Mixture]:
    """Falling shares of the first kind, then of the second; named by the three shares in %."""
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
            yield Mixture("-".join(f"{100 * share:.3g}" for share in shares), shares)
