"""XLM-R large, otherwise the same as `tpu_v4.py`.

    python -m jaxir.train --config tpu_v4_large.py --distributed --workdir gs://BUCKET/large

Hardware: a v4-32 slice (sixteen chips). Cost and scores: not measured. More in configs/README.md.
"""

from jaxir.configs import tpu_v4

from jaxir.config import Config, EncoderConfig


def get_config() -> Config:
    """XLM-R large, batch 2,048."""
    config = tpu_v4.get_config()
    config.model.init = "FacebookAI/xlm-roberta-large"
    config.model.encoder = EncoderConfig(
        hidden_size=1024, layers=24, heads=16, intermediate_size=4096
    )
    config.optimizer.learning_rate = 2e-5
    return config
