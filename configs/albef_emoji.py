"""ALBEF from scratch on emoji and their names in eleven languages; one drawing style is held out.

    python -m jaxir.train --config albef_emoji.py --config.captions.directory=DATA

DATA holds the folder `emoji-cldr`. Training uses three drawing styles of four emoji in five.
Evaluation uses the same emoji in the style OpenMoji, and the other emoji in the three styles.

Hardware and cost: 30 minutes on one CPU core. Expected R@1 from image to text: .228 on OpenMoji and
.053 on the other emoji. More in jaxir/vision/README.md.
"""

from jaxir.configs import albef_demo

from jaxir.config import (
    AlbefConfig,
    AlbefEvaluationConfig,
    AlbefLossConfig,
    AugmentConfig,
    CaptionsConfig,
    CheckpointConfig,
    EmojiConfig,
    ImageSource,
    LoggingConfig,
    OptimizerConfig,
    Shares,
)

SIZE = 32  # outlines differ between styles more than what they enclose
WHITE = (1.0, 1.0, 1.0)
HELD_OUT_STYLE = "openmoji"


def emoji(split: str, style: str = HELD_OUT_STYLE) -> ImageSource:
    """The source of one part of the split, named after it."""
    options = EmojiConfig(held_out_style=style)
    return ImageSource("emoji", "emoji-cldr", name=split, split=split, emoji=options)


def get_config(style: str = HELD_OUT_STYLE) -> AlbefConfig:
    """The demo's ViT and half of its text layers, trained by image-text contrast alone.

    Captions are names alone, so a language's pool has one caption for each emoji. Matching and
    masked tokens would take two thirds of the time.
    """
    config = albef_demo.get_config()
    config.steps, config.batch_size = 9_000, 256
    model = config.model
    model.vit.image_size = SIZE
    model.text.layers, model.text_layers = 2, 1
    model.projection = 128
    model.image_mean = WHITE  # the background becomes 0
    model.trained_tokenizer_size = 12_000
    config.captions = CaptionsConfig(
        sources=(emoji("train", style),),
        image_size=SIZE,
        max_caption_tokens=12,
        captions_per_language=1,
        # styles differ in colours, in outlines and in how much of the image they fill
        augment=AugmentConfig(
            crop_scale=(0.6, 1.6),
            crop_ratio=(5 / 6, 6 / 5),
            flip=False,
            color=0.7,
            randaugment_operations=1,
            fill=(255, 255, 255),
        ),
        held_out=0.0,
    )
    config.hybrid.shares = Shares(monolingual=1, cross_lingual=2, multilingual=1)
    config.loss = AlbefLossConfig(temperature=0.05, itm=False, mlm=False, momentum=False)
    config.optimizer = OptimizerConfig(learning_rate=2e-3, warmup_steps=100)
    config.checkpoint = CheckpointConfig(every=1_000)
    config.evaluation = AlbefEvaluationConfig(
        sources=(emoji("held_out_style", style), emoji("held_out_content", style)),
        every=0,  # else the best checkpoint would be chosen on what is reported
        baselines=True,
    )
    config.logging = LoggingConfig(every=50, tensorboard=False)
    return config
