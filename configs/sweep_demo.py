"""The ratio study in small: the demo's data at 16 points of the simplex, two seeds each.

    python -m jaxir.sweep --config sweep_demo.py --workdir DIR
    python -m jaxir.sweep report DIR

The points are the 15 of a grid of step 1/4 over the shares of monolingual, cross-lingual and
multilingual batches, and uniform shares, against which the report tests the others. Model, data and
the 200 steps of every run are those of `demo.py`.

Hardware and cost: 12 minutes on two CPU cores, 2 GiB. Scores: not recorded; see
jaxir/sweep/README.md for the larger studies.
"""

from jaxir.configs import demo

from jaxir.config import Config, SweepConfig


def get_config() -> Config:
    """Short runs, 32 in all."""
    config = demo.get_config()
    config.sweep = SweepConfig(
        step=0.25, named=("X-X", "X-Y", "multilingual", "hybrid", "uniform"), seeds=2
    )
    return config
