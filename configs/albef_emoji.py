"""ALBEF from scratch on emoji and their names in eleven languages; a drawing style is held out.

    python -m jaxir.train --config albef_emoji.py --config.captions.directory=DATA

DATA holds the folder `emoji-cldr`. Three styles of four emoji in five are trained on; measured are
the same emoji in the style OpenMoji, and other emoji in the three styles.
"""

from jaxir.config import (
    CheckpointConfig,
    EncoderConfig,
    HybridConfig,
    OptimizerConfig,
    Shares,
    WatchConfig,
)
from jaxir.vision.config import (
    AlbefConfig,
    AlbefEvaluationConfig,
    AlbefLossConfig,
    AugmentConfig,
    CaptionsConfig,
    EmojiConfig,
    ImageSource,
)
from jaxir.vision.shapes import AlbefModelConfig, VitConfig

SIZE = 64
HELD_OUT_STYLE = "openmoji"


def emoji(split: str, style: str = HELD_OUT_STYLE) -> ImageSource:
    """A part of the split, called so."""
    options = EmojiConfig(held_out_style=style)
    return ImageSource("emoji", "emoji-cldr", name=split, split=split, emoji=options)


def get_config(style: str = HELD_OUT_STYLE) -> AlbefConfig:
    """Names alone, so that a language's pool has one caption for each emoji."""
    return AlbefConfig(
        steps=4_000,
        batch_size=128,
        model=AlbefModelConfig(
            vit=VitConfig(
                image_size=SIZE,
                patch_size=16,
                hidden_size=128,
                layers=3,
                heads=4,
                intermediate_size=256,
                initializer_range=0.1,
            ),
            text=EncoderConfig(
                hidden_size=128,
                layers=2,
                heads=4,
                intermediate_size=256,
                positions=14,
                dropout=0.0,
                attention_dropout=0.0,
                initializer_range=0.1,
            ),
            text_layers=1,
            projection=128,
            compute_dtype="float32",
            trained_tokenizer_size=12_000,
            trained_tokenizer_kind="bpe",
        ),
        captions=CaptionsConfig(
            sources=(emoji("train", style),),
            image_size=SIZE,
            max_caption_tokens=12,
            captions_per_language=1,
            augment=AugmentConfig(
                crop_scale=(0.5, 1.0),
                flip=False,
                randaugment_operations=2,
                fill=(255, 255, 255),
            ),
            held_out=0.0,
        ),
        hybrid=HybridConfig(shares=Shares(monolingual=1, cross_lingual=1, multilingual=1)),
        loss=AlbefLossConfig(momentum_coefficient=0.99, queue=256, ramp_steps=2_000),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=100),
        checkpoint=CheckpointConfig(every=1_000),
        evaluation=AlbefEvaluationConfig(
            sources=(emoji("held_out_style", style), emoji("held_out_content", style)),
            every=1_000,
            images=300,
            baselines=True,
        ),
        watch=WatchConfig(every=50, tensorboard=False),
    )
