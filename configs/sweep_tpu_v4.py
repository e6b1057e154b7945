"""The ratio study with XLM-R base on SQuAD in nine languages: 16 points, three seeds, XQuAD-R.

    python -m jaxir.sweep --config sweep_tpu_v4.py --distributed --workdir gs://BUCKET/sweep
    python -m jaxir.sweep report gs://BUCKET/sweep

Model, data and batch are those of `tpu_v4.py`, with 2,000 steps per run: 4.1 million pairs, each
row about five times.

Hardware: v4-8 slices (four chips). One slice goes through all runs; several slices with the same
workdir share them (`tpu/babysit.sh --config sweep_tpu_v4.py` starts each, with a JAXIR_TPU_NAME of
its own).

Cost, planned and not measured, for texts as long as the limits in rows of their own (`python -m
jaxir.plan --config sweep_tpu_v4.py --topology v4-8 --config.model.packed_length=0`): 13.1 of 30.75
GiB per chip, and a step of 0.80 s at 40 % of the peak of the matrix units (2,557 pairs/s) or 1.04 s
at that of HBM, so 27 to 35 minutes per run and 21 to 28 hours of one v4-8, 86 to 111 chip-hours,
for the steps of all 48 runs. Their checkpoints take 3.3 GB each in the bucket, 320 GB. Scores: not
measured. More in configs/README.md.
"""

from jaxir.configs import tpu_v4

from jaxir.config import Config, SweepConfig


def get_config() -> Config:
    """Runs of 16 points with three seeds, 48 in all; the best and last checkpoints are kept."""
    config = tpu_v4.get_config()
    config.steps, config.optimizer.warmup_steps = 2_000, 200
    config.sweep = SweepConfig(
        step=0.25, named=("X-X", "X-Y", "multilingual", "hybrid", "uniform"), seeds=3
    )
    config.checkpoint.keep = 1
    config.evaluation.benchmark = "xquad_r"
    config.logging.tensorboard = config.logging.export = False
    return config
