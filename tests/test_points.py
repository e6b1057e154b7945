"""The points of a sweep: all of a grid, each once, and every mistake named before any work."""

import dataclasses
import json
import re
import subprocess
import sys

import dacite
import pytest

from jaxir.config import Config, Shares, SweepConfig
from jaxir.data.interleaving import integer_shares
from jaxir.errors import UserError
from jaxir.sweep.mixtures import KINDS, config_of, mixtures, runs


def _by_name(**fields):
    return {point.name: point.shares for point in mixtures(SweepConfig(**fields))}


@pytest.mark.parametrize(("step", "count"), [(1, 3), (0.5, 6), (0.25, 15), (1 / 3, 10), (0.1, 66)])
def test_a_grid_has_every_share_once(step, count):
    found = mixtures(SweepConfig(step=step))
    parts = round(1 / step)
    whole = {tuple(round(x * parts, 9) for x in point.shares) for point in found}
    assert len(found) == len(whole) == count
    assert all(sum(point.shares) == pytest.approx(1) for point in found)
    assert all(x == int(x) >= 0 for point in whole for x in point)


def test_points_that_coincide_are_one_under_the_name_that_reads_best():
    found = _by_name(
        step=0.25,
        named=("X-X", "hybrid", "uniform"),
        shares={"mine": Shares(monolingual=3, cross_lingual=1)},
    )
    assert len(found) == 16
    assert list(found)[:4] == ["mine", "X-X", "hybrid", "uniform"]
    assert found["mine"] == (0.75, 0.25, 0.0)
    assert found["25-50-25"] == (0.25, 0.5, 0.25)
    assert not {"75-25-0", "100-0-0", "50-50-0"} & found.keys()


def test_thirds_are_exact_and_uniform_is_on_a_grid_of_thirds():
    found = mixtures(SweepConfig(step=1 / 3, named=("uniform",)))
    assert len(found) == 10
    for point in found:
        assert integer_shares(point.shares).sum() in (1, 3)


def test_other_kinds_may_span_the_simplex():
    kinds = ("english", "mixed_monolingual", "multilingual")
    found = _by_name(kinds=kinds, step=0.5, named=("uniform", "multilingual"))
    assert len(found) == 7
    config = Config(sweep=SweepConfig(kinds=kinds, named=("uniform",)))
    shares = dataclasses.asdict(config_of(config, runs(config)[0]).hybrid.shares)
    assert shares == {kind: (1 / 3 if kind in kinds else 0.0) for kind in KINDS}


def test_runs_go_seed_by_seed_and_each_is_a_config_of_its_own():
    config = Config(seed=5, sweep=SweepConfig(named=("X-X", "X-Y"), seeds=2))
    found = runs(config)
    assert [run.name for run in found] == ["X-X-seed5", "X-Y-seed5", "X-X-seed6", "X-Y-seed6"]
    one = config_of(config, found[3])
    assert (one.seed, one.hybrid.shares) == (6, Shares(0, 0, 1, 0, 0))
    assert one.sweep == SweepConfig()
    assert config.seed == 5


def test_a_sweep_reads_back_from_json():
    config = Config(sweep=SweepConfig(named=("X-X",), shares={"mine": Shares(1, 0, 2)}))
    fields = json.loads(json.dumps(dataclasses.asdict(config)))
    assert dacite.from_dict(Config, fields, dacite.Config(cast=[tuple])) == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "config.sweep has no mixtures"),
        ({"step": 0.3}, r"config.sweep.step = 0.3: must divide 1"),
        ({"step": -0.5}, r"config.sweep.step = -0.5: must divide 1"),
        ({"step": 1e-6}, r"config.sweep.step = 1e-06: must divide 1 and be at least 0.01"),
        ({"step": float("nan")}, "config.sweep.step = nan"),
        ({"step": 2.0}, "config.sweep.step = 2: must divide 1"),
        ({"named": ("X-Z",)}, "'X-Z' is no mixture; the names are X-X, X-Y, .*uniform"),
        ({"named": ("X-X",), "kinds": ("english",)}, "config.sweep.kinds = .*must be three of"),
        (
            {"named": ("X-X",), "kinds": ("english", "cross_lingual", "multilingual")},
            "'X-X' needs monolingual among config.sweep.kinds",
        ),
        (
            {"shares": {"a": Shares(0.5, 0, 0.5, 0, 0.25)}},
            r"shares\['a'\].english = 0.25: not one of config.sweep.kinds",
        ),
        ({"shares": {"a/b": Shares()}}, r"shares\['a/b'\]: the name"),
        ({"shares": {"..": Shares()}}, r"shares\['..'\]: the name"),
        (
            {"named": ("hybrid",), "shares": {"hybrid": Shares(1, 0, 0)}},
            "two mixtures with different shares are called 'hybrid'",
        ),
    ],
)
def test_a_mistake_is_one_line(fields, message):
    with pytest.raises(UserError, match=message) as error:
        mixtures(SweepConfig(**fields))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shares", [Shares(monolingual=-1), Shares(0, 0, 0)])
def test_shares_that_are_none_are_refused_with_the_config(shares):
    with pytest.raises(UserError, match=r"sweep.shares\[a\]"):
        Config(sweep=SweepConfig(shares={"a": shares})).validate()


@pytest.mark.parametrize("command", ["train", "sweep.__main__"])
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("step=0.3", "config.sweep.step = 0.3: must divide 1"),
        ("named=('X-Z',)", "'X-Z' is no mixture"),
        ("seeds=0", "config.sweep.seeds = 0: must be positive"),
    ],
)
def test_commands_refuse_before_they_write_or_import(command, override, message, tmp_path):
    arguments = ["--config", "demo.py", f"--config.sweep.{override}", "--workdir", "w"]
    code = (
        f"import sys; from jaxir.{command} import main\n"
        "from jaxir.errors import UserError\n"
        "try: main(['x', *sys.argv[1:]])\n"
        "except UserError as error: print(error)\n"
        "assert not {'jax', 'tensorflow', 'matplotlib'} & set(sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    assert re.search(message, answer.stdout), answer.stdout
    assert not list(tmp_path.iterdir())


def test_a_config_without_points_is_no_sweep(tmp_path):
    command = [sys.executable, "-m", "jaxir.sweep", "--config", "xquad_r_small.py"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 2
    assert re.fullmatch(r"error: config\.sweep has no mixtures.*\n", answer.stderr)
    assert not list(tmp_path.iterdir())
