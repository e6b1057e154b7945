"""The config of a run: typed dataclasses, and the checks that need neither data nor devices.

A config file `configs/NAME.py` defines `get_config()`, which returns the config of one task:
`Config` for a retriever of texts, `AlbefConfig` for image-text alignment. This room imports
neither JAX nor TensorFlow, so that `--help` answers at once.
"""

from jaxir.config.albef import AlbefConfig, AlbefEvaluationConfig, AlbefLossConfig
from jaxir.config.image_data import (
    AugmentConfig,
    CaptionsConfig,
    DrawnConfig,
    EmojiConfig,
    ImageSource,
    validate_captions,
)
from jaxir.config.image_models import (
    CLIP_SHAPES,
    AlbefModelConfig,
    ClipConfig,
    ClipTextConfig,
    FusionConfig,
    VitConfig,
)
from jaxir.config.retrieval import (
    BENCHMARKS,
    PASSAGE_UNITS,
    Config,
    DataConfig,
    Fields,
    LossConfig,
    RetrievalEvaluationConfig,
    Source,
    validate_shape,
)
from jaxir.config.run import (
    CheckpointConfig,
    EvaluationConfig,
    HybridConfig,
    LoggingConfig,
    OptimizerConfig,
    RunConfig,
    ScaleConfig,
    Shares,
    SweepConfig,
    TemperatureConfig,
)
from jaxir.config.text_models import (
    ARCHITECTURES,
    COMPUTE_DTYPES,
    POOLINGS,
    REMATS,
    TOKENIZER_KINDS,
    DualEncoderConfig,
    EncoderConfig,
    ModelConfig,
)

# the config class of each task, by the name that `config.task` has
CONFIGS: dict[str, type[RunConfig]] = {"retrieval": Config, "albef": AlbefConfig}
