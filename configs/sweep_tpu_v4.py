"""The ratio study with XLM-R base on SQuAD in nine languages: 16 points, three seeds, XQuAD-R.

    python -m jaxir.sweep --config sweep_tpu_v4.py --distributed --workdir gs://BUCKET/sweep
    python -m jaxir.sweep report gs://BUCKET/sweep

For v4-8 slices (four chips): one goes through all runs, several that are given the same workdir
share them (`tpu/babysit.sh --config sweep_tpu_v4.py` starts each). Model, data and batch are those
of `tpu_v4.py`, with 2,000 steps a run: 4.1 million pairs, each row about five times.

Cost, planned and not measured, for texts as long as the limits in rows of their own (`python -m
jaxir.plan --config sweep_tpu_v4.py --topology v4-8 --config.model.packed_length=0`): 15.2 of 30.75
GiB a chip, and a step of 0.80 s at 40 % of the peak of the matrix units (2,557 pairs/s) or 1.04 s
at that of HBM, so 27 to 35 minutes a run and 21 to 28 hours of one v4-8, 86 to 111 chip-hours, for
the steps of all 48. Their checkpoints take 3.3 GB each in the bucket, 320 GB.
"""

from jaxir.configs import tpu_v4

from jaxir.config import Config, SweepConfig


def get_config() -> Config:
    """48 runs, of each of which the best and the last checkpoint are kept."""
    config = tpu_v4.get_config()
    config.steps, config.optimizer.warmup_steps = 2_000, 200
    config.sweep = SweepConfig(
        step=0.25, named=("X-X", "X-Y", "multilingual", "hybrid", "uniform"), seeds=3
    )
    config.checkpoint.keep = 1
    config.evaluation.benchmark = "xquad_r"
    config.logging.tensorboard = config.logging.export = False
    return config
