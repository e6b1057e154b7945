"""The ratio study on open data: 16 points of the simplex, three seeds, evaluated on XQuAD-R.

    python -m jaxir.sweep --config sweep_xquad_r.py --workdir DIR --config.data.directory=DATA
    python -m jaxir.sweep report DIR

The points are the 15 of a grid of step 1/4 over the shares of monolingual, cross-lingual and
multilingual batches, and uniform shares. Data, model and steps are those of `xquad_r_small.py`. The
seeds differ in the initial weights and in the order of the rows, never in what is held out.

Hardware and cost: 1 h 47 min with two workers on two busy CPU cores, 3 GiB each. Scores:
jaxir/sweep/README.md.
"""

from jaxir.configs import xquad_r_small

from jaxir.config import Config, SweepConfig


def get_config() -> Config:
    """Runs of 16 points with three seeds, 48 in all; the last checkpoint of each is kept."""
    config = xquad_r_small.get_config()
    config.sweep = SweepConfig(
        step=0.25, named=("X-X", "X-Y", "multilingual", "hybrid", "uniform"), seeds=3
    )
    config.checkpoint.keep = 1
    config.evaluation.baselines = False
    config.logging.tensorboard = config.logging.export = False
    return config
