"""ALBEF as published (arXiv 2107.07651, section 3.4), with XLM-R base as its text side.

    python -m jaxir.train --config albef_base.py --config.captions.directory=DATA

DATA holds `shards/*.tar` (webdataset: KEY.jpg, and KEY.json with captions by language). The numbers
are the paper's for its 4 million images: 30 epochs of batches of 512, alpha rising over the first
epoch, weight decay 0.02, a learning rate that rises to 1e-4 in 1,000 steps and falls to 1e-5. The
image side starts from a ViT-B/16 trained on ImageNet (the paper: DeiT), the text side from XLM-R
base: its first six layers are the text encoder, the rest fusion layers.

Hardware: the paper used eight A100s. Cost and scores: not run here.
"""

from jaxir.config import (
    AlbefConfig,
    AlbefEvaluationConfig,
    AlbefLossConfig,
    AlbefModelConfig,
    AugmentConfig,
    CaptionsConfig,
    CheckpointConfig,
    HybridConfig,
    ImageSource,
    LoggingConfig,
    OptimizerConfig,
    Shares,
    VitConfig,
)

IMAGES, BATCH, EPOCHS = 4_000_000, 512, 30
EPOCH = IMAGES // BATCH


def get_config() -> AlbefConfig:
    """ALBEF base; for another number of images change `steps` and `loss.ramp_steps` too."""
    return AlbefConfig(
        steps=EPOCHS * EPOCH,
        batch_size=BATCH,
        model=AlbefModelConfig(
            vit=VitConfig(image_size=256),
            init_vision="google/vit-base-patch16-224-in21k",
            init_text="FacebookAI/xlm-roberta-base",
        ),
        captions=CaptionsConfig(
            sources=(ImageSource("webdataset", images="shards"),),
            image_size=256,
            held_out=0.001,
            augment=AugmentConfig(crop_scale=(0.2, 1.0)),
        ),
        hybrid=HybridConfig(shares=Shares(monolingual=1, cross_lingual=1, multilingual=1)),
        loss=AlbefLossConfig(ramp_steps=EPOCH),
        optimizer=OptimizerConfig(
            learning_rate=1e-4, final_learning_rate=1e-5, warmup_steps=1_000, weight_decay=0.02
        ),
        checkpoint=CheckpointConfig(every=2_000),
        evaluation=AlbefEvaluationConfig(every=EPOCH, images=1_000),
        logging=LoggingConfig(every=50),
    )
