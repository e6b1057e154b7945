"""LaBSE, otherwise the same as `tpu_v4.py`.

    python -m jaxir.train --config labse.py --distributed --workdir gs://BUCKET/labse

LaBSE's folder decides pooling ([CLS]), Dense(tanh) and normalization.

Hardware: a v4-8 slice (four chips) or larger. Cost and scores on a TPU: not measured. Published for
the paper's own data: XQuAD-R mAP .817 monolingual, .767 cross-lingual, .682 multilingual, rank
distance 221. More in configs/README.md.
"""

from jaxir.configs import tpu_v4

from jaxir.config import Config, EncoderConfig


def get_config() -> Config:
    """LaBSE, batch 2,048."""
    config = tpu_v4.get_config()
    config.model.init = "sentence-transformers/LaBSE"
    config.model.encoder = EncoderConfig(
        architecture="bert",
        vocab_size=501_153,
        positions=512,
        token_types=2,
        pad_id=0,
        layer_norm_epsilon=1e-12,
    )
    config.model.pooling, config.model.dense = "cls", 768
    return config
