"""The judge of the emoji study: a model that scores how well captions fit images.

    python -m jaxir.train --config emoji_judge.py --workdir JUDGE --config.captions.directory=DATA
    python -m jaxir.train --config albef_emoji.py --config.captions.directory=DATA \\
        --config.evaluation.judge=JUDGE

It is trained on another split of the emoji than the models that it judges (another seed), and on
all four drawing styles: a judge should know OpenMoji's drawings, which the models never see. It is
trained on all kinds of batches in equal shares, then frozen. Of the emoji that the models do not
know, it knows four in five; it is evaluated on the fifth that it was not trained on.

Hardware and cost: 30 minutes on one CPU core. Expected: R@1 .036 from image to text on that fifth
(406 names). More in jaxir/vision/README.md and jaxir/sweep/README.md.
"""

from jaxir.configs import albef_emoji

from jaxir.config import AlbefConfig, AugmentConfig, EmojiConfig, ImageSource, Shares

SEED = 1  # of the split and of the weights


def _emoji(split: str) -> ImageSource:
    options = EmojiConfig(seed=SEED)
    return ImageSource("emoji", "emoji-cldr", name=split, split=split, emoji=options)


def get_config() -> AlbefConfig:
    """The config of the judged models with other split, steps, shares and augmentation."""
    config = albef_emoji.get_config()
    config.seed, config.steps = SEED, 6_000
    config.captions.sources = (_emoji("train"),)
    # it sees every style, so images need to change less
    config.captions.augment = AugmentConfig(
        flip=False, randaugment_operations=1, fill=(255, 255, 255)
    )
    config.evaluation.sources = (_emoji("held_out_content"),)
    config.hybrid.shares = Shares(monolingual=1, cross_lingual=1, multilingual=1)
    # the best checkpoint is chosen on emoji that it was not trained on
    config.evaluation.every, config.evaluation.images = 1_000, 300
    config.evaluation.baselines = False
    return config
