"""ALBEF on a few drawings, small enough to train in seconds."""

from jaxir.config import (
    AlbefConfig,
    AlbefEvaluationConfig,
    AlbefLossConfig,
    AlbefModelConfig,
    AugmentConfig,
    CaptionsConfig,
    CheckpointConfig,
    DrawnConfig,
    EncoderConfig,
    HybridConfig,
    ImageSource,
    LoggingConfig,
    OptimizerConfig,
    Shares,
    VitConfig,
)

SIZE, LANGUAGES = 32, ("de", "en", "zh")


def drawings(name: str, split: str) -> ImageSource:
    """Each combination of a split once."""
    drawn = DrawnConfig(drawings=1, size=SIZE)
    return ImageSource("drawn", name=name, split=split, languages=LANGUAGES, drawn=drawn)


def tiny_albef(steps: int = 8, dropout: float = 0.0) -> AlbefConfig:
    """All losses, and augmentation; evaluates once on the way, saves often.

    No cross-lingual batches, which would need a second compiled step.
    """
    text = EncoderConfig(
        hidden_size=16,
        layers=2,
        heads=2,
        intermediate_size=32,
        positions=20,
        dropout=dropout,
        attention_dropout=dropout,
        initializer_range=0.1,
    )
    return AlbefConfig(
        steps=steps,
        batch_size=16,
        model=AlbefModelConfig(
            vit=VitConfig(SIZE, 16, 16, 2, 2, 32, dropout=dropout, initializer_range=0.1),
            text=text,
            text_layers=1,
            projection=8,
            compute_dtype="float32",
            trained_tokenizer_size=150,
        ),
        captions=CaptionsConfig(
            sources=(drawings("drawn", "train"),),
            image_size=SIZE,
            max_caption_tokens=16,
            augment=AugmentConfig(flip=False, randaugment_operations=1),
            held_out=0.0,
            limit=48,
        ),
        hybrid=HybridConfig(shares=Shares(monolingual=1, cross_lingual=0, multilingual=1)),
        # the queue is no multiple of the batch, so rows go round its end
        loss=AlbefLossConfig(queue=40, ramp_steps=4),
        optimizer=OptimizerConfig(learning_rate=5e-3, warmup_steps=2),
        checkpoint=CheckpointConfig(every=3),
        evaluation=AlbefEvaluationConfig(
            sources=(drawings("new", "held_out"),),
            every=4,
            images=24,
            candidates=4,
            baselines=True,
        ),
        logging=LoggingConfig(every=2, tensorboard=False),
    )
