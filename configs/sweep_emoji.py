"""The ratio study for images: ALBEF on emoji at 11 points of the simplex, two seeds each.

    python -m jaxir.train --config emoji_judge.py --workdir JUDGE --config.captions.directory=DATA
    python -m jaxir.sweep --config sweep_emoji.py --workdir DIR --config.captions.directory=DATA \\
        --config.evaluation.judge=JUDGE
    python -m jaxir.sweep report DIR --dataset held_out_style
    python -m jaxir.sweep report DIR --dataset held_out_content

The points are the 10 of a grid of step 1/3 over the shares of monolingual, cross-lingual and
multilingual batches, and half and half. The grid includes uniform shares, against which the report
tests the others. Data and model are those of `albef_emoji.py`; every run has the same number of
steps of as many images, whatever its shares.

Hardware and cost: 1 h 45 min on one CPU core. Scores: jaxir/sweep/README.md.
"""

from jaxir.configs import albef_emoji

from jaxir.config import AlbefConfig, SweepConfig


def get_config() -> AlbefConfig:
    """Runs of 11 points with two seeds, 22 in all; the last checkpoint of each is kept."""
    config = albef_emoji.get_config()
    config.sweep = SweepConfig(
        step=1 / 3, named=("X-X", "X-Y", "multilingual", "hybrid", "uniform"), seeds=2
    )
    config.steps = 1_000
    config.checkpoint.keep = 1
    config.evaluation.baselines = False
    config.logging.export = False
    return config
