"""The ratio study in small: the demo's task at 16 points of the simplex, two seeds each.

    python -m jaxir.sweep --config sweep_demo.py --workdir DIR
    python -m jaxir.sweep report DIR

The 15 points of step 1/4 over the shares of monolingual, cross-lingual and multilingual batches,
and uniform shares, against which the report tests the others. The model, the data and the 200
steps of every run are those of `demo.py`. On two CPU cores: 12 minutes, 2 GiB.
"""

from jaxir.configs import demo

from jaxir.config import Config, SweepConfig


def get_config() -> Config:
    """32 short runs."""
    config = demo.get_config()
    config.sweep = SweepConfig(
        step=0.25, named=("X-X", "X-Y", "multilingual", "hybrid", "uniform"), seeds=2
    )
    return config
