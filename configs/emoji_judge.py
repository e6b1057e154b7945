"""The judge of the emoji study: it says how well captions fit images, and is judged by nobody.

    python -m jaxir.train --config emoji_judge.py --workdir JUDGE --config.captions.directory=DATA
    python -m jaxir.train --config albef_emoji.py --config.captions.directory=DATA \\
        --config.evaluation.judge=JUDGE

It sees another split of the emoji than the models that it judges, by another seed, and all four
styles: a judge should know what an OpenMoji shows, and the models never see it. It is trained on
all kinds of batches in equal shares, and then frozen. Of what the models do not know, it knows four
in five: the fifth it was not trained on is its own measure.
"""

from jaxir.configs import albef_emoji

from jaxir.config import AlbefConfig, AugmentConfig, EmojiConfig, ImageSource, Shares

SEED = 1  # of the split and of the weights


def _emoji(split: str) -> ImageSource:
    options = EmojiConfig(seed=SEED)
    return ImageSource("emoji", "emoji-cldr", name=split, split=split, emoji=options)


def get_config() -> AlbefConfig:
    """As the judged, but for split, steps, shares and what is changed of images."""
    config = albef_emoji.get_config()
    config.seed, config.steps = SEED, 6_000
    config.captions.sources = (_emoji("train"),)
    # it sees every style, so there is less to bridge
    config.captions.augment = AugmentConfig(
        flip=False, randaugment_operations=1, fill=(255, 255, 255)
    )
    config.evaluation.sources = (_emoji("held_out_content"),)
    config.hybrid.shares = Shares(monolingual=1, cross_lingual=1, multilingual=1)
    # frozen where it is least wrong about emoji that it was not trained on
    config.evaluation.every, config.evaluation.images = 1_000, 300
    config.evaluation.baselines = False
    return config
