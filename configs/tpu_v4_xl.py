"""XLM-R XL (3.5 billion parameters), otherwise the same as `tpu_v4.py`.

    python -m jaxir.train --config tpu_v4_xl.py --distributed --workdir gs://BUCKET/xl

Hardware: a v4-32 slice (sixteen chips), over which parameters and optimizer state are split. Cost
and scores: not measured; a plan is in tpu/README.md. More in configs/README.md.
"""

from jaxir.configs import tpu_v4

from jaxir.config import Config, EncoderConfig, ScaleConfig


def get_config() -> Config:
    """XLM-R XL, batch 2,048."""
    config = tpu_v4.get_config()
    config.model.init = "facebook/xlm-roberta-xl"
    config.model.encoder = EncoderConfig(
        architecture="xlm-roberta-xl",
        vocab_size=250_880,
        hidden_size=2560,
        layers=36,
        heads=32,
        intermediate_size=10_240,
    )
    config.model.remat = "layers"
    config.scale = ScaleConfig(grad_cache_chunk=32, fsdp=True)
    config.optimizer.learning_rate = 1e-5
    return config
