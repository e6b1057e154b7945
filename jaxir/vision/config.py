"""What runs with images can be told; like `jaxir.config` it imports no JAX."""

import operator
from dataclasses import dataclass, field

from jaxir.config import (
    COMPUTE_DTYPES,
    REMATS,
    Bounds,
    EvaluationConfig,
    RunConfig,
    TemperatureConfig,
    check_fields,
    require,
    require_temperature,
)
from jaxir.vision.shapes import AlbefModelConfig

MAX_SIDE = 4096  # of the images that a model sees, in pixels
MAX_FRAME = 4  # area of a crop to the image's


@dataclass
class DrawnConfig:
    """Images that the reader `drawn` makes (`jaxir.vision.drawn`)."""

    drawings: int = 8  # of each combination of shape, colour, count and position
    size: int = 64  # side in pixels
    held_out: int = 108  # combinations, of 540, that make the split "held_out"
    seed: int = 0  # of the choice of those


@dataclass
class EmojiConfig:
    """What the reader `emoji` takes out of its folder (`jaxir.vision.emoji`)."""

    styles: tuple[str, ...] = ()  # of drawing; none: all that are there
    held_out_style: str = ""  # one of them, in no image of the split "train"; "": none
    held_out: float = 0.2  # share of the emoji that are in no image of the split "train"
    seed: int = 0  # of the choice of those


@dataclass
class ImageSource:
    """One source of images with captions. Relative paths are looked up in the data's directory."""

    reader: str = "folder"  # a name in `jaxir.vision.sources.READERS`
    images: str = ""  # folder; webdataset: tar, folder or glob of tars; tfds: "coco_captions/2014"
    captions: str = ""  # of folder: JSON lines, a file, folder or glob
    # those that are kept, none: all; of captions that name no language: theirs, one
    languages: tuple[str, ...] = ()
    name: str = ""  # what reports call it; "": where the images are
    split: str = "train"  # of tfds, drawn ("held_out") and emoji (see its reader)
    language_codes: dict[str, str] = field(default_factory=dict)  # the file's code: the real one
    drawn: DrawnConfig = field(default_factory=DrawnConfig)
    emoji: EmojiConfig = field(default_factory=EmojiConfig)


@dataclass
class AugmentConfig:
    """How a training image is changed, another way at every step (ALBEF's, arXiv 2107.07651)."""

    # area of a crop to the image's (ALBEF pretrains with 0.2 to 1); over 1: with a frame
    crop_scale: tuple[float, float] = (0.5, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width to height of a crop
    flip: bool = True  # off where captions tell left from right, or images hold writing
    color: float = 0.0  # of 1: brightness, contrast, saturation, hue; ALBEF: 0
    randaugment_operations: int = 2  # drawn for each image; half of them are left out; 0: none
    randaugment_strength: float = 7.0  # of 10
    fill: tuple[int, int, int] = (128, 128, 128)  # where a turned, shifted or framed image ends


@dataclass
class CaptionsConfig:
    """Where images and captions come from, and how they become the input of a step."""

    directory: str = "."
    sources: tuple[ImageSource, ...] = ()
    image_size: int = 224  # side in pixels
    background: tuple[int, int, int] = (255, 255, 255)  # behind transparent images
    max_caption_tokens: int = 30  # with the special tokens; longer captions are cut
    captions_per_language: int = 0  # of an image at most; 0: all
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    held_out: float = 0.02  # share of what is depicted that is kept from training
    held_out_limit: int = 2_000  # at most that many images (with a caption each) are held out
    held_out_sources: tuple[str, ...] = ()  # wholly kept from training, e.g. a drawing style
    limit: int = 0  # read at most that many images a source; 0: all
    decode_first: bool = True  # decode every image once before training, so that none stops it
    decoded_mib: int = 512  # of images stay decoded: a small set is not decoded in every epoch
    skip_bad: bool = False  # leave bad images and captions out, and count them


def validate_captions(config: CaptionsConfig, name: str = "data") -> None:
    """Check every value that can be judged without images.

    Args:
        config: a part of a run's config.
        name: of that part.

    Raises:
        UserError: names the field, its value and the bound it breaks.
    """

    def check(holds: bool, field_name: str, bound: str) -> None:
        value = operator.attrgetter(field_name)(config)
        require(holds, f"{name}.{field_name}", value, bound)

    augment = config.augment
    for pair in ("crop_scale", "crop_ratio"):
        check(len(getattr(augment, pair)) == 2, f"augment.{pair}", "two numbers")
    low, high = augment.crop_scale
    check(
        0 < low <= high <= MAX_FRAME,
        "augment.crop_scale",
        f"two shares over 0, the smaller one first, up to {MAX_FRAME}",
    )
    low, high = augment.crop_ratio
    check(0 < low <= high, "augment.crop_ratio", "two positive numbers, the smaller one first")
    check(0 <= augment.color <= 1, "augment.color", "from 0 to 1")
    strength, operations = augment.randaugment_strength, augment.randaugment_operations
    check(0 <= strength <= 10, "augment.randaugment_strength", "from 0 to 10")
    check(0 <= operations <= 10, "augment.randaugment_operations", "from 0 to 10")
    check(0 < config.image_size <= MAX_SIDE, "image_size", f"from 1 to {MAX_SIDE:,} pixels")
    for colour, field_name in ((config.background, "background"), (augment.fill, "augment.fill")):
        good = len(colour) == 3 and all(0 <= part <= 255 for part in colour)
        check(good, field_name, "three whole numbers from 0 to 255")
    check(config.max_caption_tokens >= 3, "max_caption_tokens", "3 or more")
    check(0 <= config.held_out < 1, "held_out", "at least 0 and under 1")
    for field_name in ("captions_per_language", "held_out_limit", "limit", "decoded_mib"):
        check(getattr(config, field_name) >= 0, field_name, "0 or more")


@dataclass
class AlbefLossConfig(TemperatureConfig):
    """ALBEF's losses (arXiv 2107.07651, section 3); each can be switched off."""

    temperature: float = 0.07
    learned_temperature: bool = True
    min_temperature: float = 0.001
    max_temperature: float = 0.5
    itc: bool = True  # image-text contrast
    itm: bool = True  # image-text matching against hard negatives
    mlm: bool = True  # masked language modelling
    # soft targets and queues of a momentum model; off: one-hot targets, candidates of the batch
    momentum: bool = True
    momentum_coefficient: float = 0.995
    queue: int = 65_536  # features; a multiple of the devices, and no fewer than the batch
    alpha: float = 0.4  # share of the momentum model's soft targets
    ramp_steps: int = 10_000  # in which that grows from 0 (the paper's first epoch)
    mask_share: float = 0.15  # of a caption's tokens
    text_text: float = 1.0  # weight of the contrast between two captions of an image


ALBEF_BOUNDS = Bounds(
    positive=(
        *("model.projection", "loss.min_temperature"),
        *("model.text.hidden_size", "model.text.intermediate_size", "model.text.positions"),
        *("model.vit.hidden_size", "model.vit.intermediate_size", "model.vit.layers"),
    ),
    not_negative=(
        *("loss.ramp_steps", "loss.text_text"),
        *("evaluation.images", "evaluation.candidates"),
    ),
    under_one=(
        *("model.text.dropout", "model.text.attention_dropout"),
        *("model.vit.dropout", "model.vit.attention_dropout"),
    ),
    choices={
        "model.vit.activation": ("gelu", "quick_gelu"),
        "model.text.architecture": ("xlm-roberta", "bert"),
        "model.compute_dtype": COMPUTE_DTYPES,
        "model.remat": REMATS,
    },
)


def _check_albef(model: AlbefModelConfig, loss: AlbefLossConfig) -> None:
    """Check how values fit each other.

    Raises:
        UserError: names the field, its value and the bound it breaks.
    """
    text, vit = model.text, model.vit
    inner = f"from 1 to text.layers - 1 = {text.layers - 1}"
    require(0 < model.text_layers < text.layers, "model.text_layers", model.text_layers, inner)
    for name, shape in (("text", text), ("vit", vit)):
        divides = shape.heads > 0 and shape.hidden_size % shape.heads == 0
        bound = f"a divisor of hidden_size = {shape.hidden_size}"
        require(divides, f"model.{name}.heads", shape.heads, bound)
    patches = vit.patch_size > 0 and vit.image_size % vit.patch_size == 0
    bound = f"a divisor of image_size = {vit.image_size}"
    require(patches, "model.vit.patch_size", vit.patch_size, bound)
    for name, three in (("image_mean", model.image_mean), ("image_std", model.image_std)):
        require(len(three) == 3, f"model.{name}", three, "three numbers")
    require(min(model.image_std) > 0, "model.image_std", model.image_std, "positive")
    bound = f"from 0 to vocab_size - 1 = {text.vocab_size - 1}"
    for name, token in (
        ("mask_id", model.mask_id),
        *(("special_ids", token) for token in model.special_ids),
    ):
        require(0 <= token < text.vocab_size, f"model.{name}", token, bound)
    _check_loss(loss)


def _check_loss(loss: AlbefLossConfig) -> None:
    any_loss = loss.itc or loss.itm or loss.mlm
    require(any_loss, "loss.itc", loss.itc, "on, since itm and mlm are off as well")
    require_temperature(loss)
    for name in ("momentum_coefficient", "alpha"):
        share = getattr(loss, name)
        require(0 <= share <= 1, f"loss.{name}", share, "from 0 to 1")
    require(0 < loss.mask_share < 1, "loss.mask_share", loss.mask_share, "over 0 and under 1")
    require(loss.queue > 0, "loss.queue", loss.queue, "positive; momentum = False needs none")


@dataclass
class AlbefEvaluationConfig(EvaluationConfig):
    """What ALBEF is measured on, besides what `captions` holds out."""

    sources: tuple[ImageSource, ...] = ()  # of images that are never trained on: a task each
    images: int = 0  # of the first task, until the end; 0: all
    candidates: int = 16  # first places that ITM scores again at the end; 0: none
    baselines: bool = False  # at the end also the most alike pixels in training
    judge: str = ""  # CLIPScore of the captions found, by that model; "": none


@dataclass
class AlbefConfig(RunConfig):
    """A run that aligns images and captions."""

    task: str = "albef"
    model: AlbefModelConfig = field(default_factory=AlbefModelConfig)
    captions: CaptionsConfig = field(default_factory=lambda: CaptionsConfig(image_size=256))
    loss: AlbefLossConfig = field(default_factory=AlbefLossConfig)
    evaluation: AlbefEvaluationConfig = field(default_factory=AlbefEvaluationConfig)

    @property
    def trains_tokenizer(self) -> bool:
        """Whether its runs share a tokenizer of their own."""
        return bool(self.model.trained_tokenizer_size)

    def validate(self) -> None:
        """As every run's, and what images add to it."""
        super().validate()
        check_fields(self, ALBEF_BOUNDS)
        _check_albef(self.model, self.loss)
        validate_captions(self.captions, "captions")
        size, seen = self.captions.image_size, self.model.vit.image_size
        require(size == seen, "captions.image_size", size, f"model.vit.image_size = {seen}")
        queue, batch = self.loss.queue, self.batch_size
        if self.loss.momentum:
            require(queue >= batch, "loss.queue", queue, f"at least batch_size = {batch}")
        scale = self.scale
        rounded = self.loss.momentum and scale.gradient_dtype != "float32"
        bound = "'float32': the momentum model follows what gradients are taken of"
        require(not rounded, "scale.gradient_dtype", scale.gradient_dtype, bound)
        at_once = scale.texts_at_once
        require(not at_once, "scale.texts_at_once", at_once, "0: ITM needs whole batches")
        sources = [source.name for source in self.evaluation.sources]
        for name in sources:
            fine = bool(name) and sources.count(name) == 1
            require(fine, "evaluation.sources", name, "sources with names, each another")
