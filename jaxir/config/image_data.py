"""Images with captions: their sources, augmentation, and how they become the input of a step."""

from dataclasses import dataclass, field

from jaxir.config.checks import at_least, check_bounds, not_negative, require, under_one, within

MAX_SIDE = 4096  # of the images that a model sees, in pixels
MAX_FRAME = 4  # area of a crop to the image's


@dataclass
class DrawnConfig:
    """Options of the reader `drawn` (`jaxir.vision.data.drawn`)."""

    drawings: int = 8  # of each combination of shape, colour, count and position
    size: int = 64  # side in pixels
    held_out: int = 108  # combinations, of 540, that make the split "held_out"
    seed: int = 0  # of the choice of those


@dataclass
class EmojiConfig:
    """Options of the reader `emoji` (`jaxir.vision.data.emoji`)."""

    styles: tuple[str, ...] = ()  # of drawing; none: all that are there
    held_out_style: str = ""  # one of them, in no image of the split "train"; "": none
    held_out: float = 0.2  # share of the emoji that are in no image of the split "train"
    seed: int = 0  # of the choice of those


@dataclass
class ImageSource:
    """A source of images with captions. Relative paths are looked up in the data's directory."""

    reader: str = "folder"  # a name in `jaxir.vision.data.readers.READERS`
    images: str = ""  # folder; webdataset: tar, folder or glob of tars; tfds: "coco_captions/2014"
    captions: str = ""  # of folder: JSON lines, a file, folder or glob
    # languages to keep, (): all; captions without a language have the only one given
    languages: tuple[str, ...] = ()
    name: str = ""  # what reports call it; "": where the images are
    split: str = "train"  # of tfds, drawn ("held_out") and emoji (see its reader)
    language_codes: dict[str, str] = field(default_factory=dict)  # the file's code: the real one
    drawn: DrawnConfig = field(default_factory=DrawnConfig)
    emoji: EmojiConfig = field(default_factory=EmojiConfig)


@dataclass
class AugmentConfig:
    """Random augmentation of training images (ALBEF's, arXiv 2107.07651)."""

    # area of a crop to the image's (ALBEF pretrains with 0.2 to 1); over 1: with a frame
    crop_scale: tuple[float, float] = (0.5, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width to height of a crop
    flip: bool = True  # off where captions tell left from right, or images hold writing
    color: float = within(0.0, 0, 1)  # of 1: brightness, contrast, saturation, hue; ALBEF: 0
    randaugment_operations: int = within(
        2, 0, 10
    )  # drawn for each image; half of them are left out; 0: none
    randaugment_strength: float = within(7.0, 0, 10)  # of 10
    fill: tuple[int, int, int] = (128, 128, 128)  # where a turned, shifted or framed image ends


@dataclass
class CaptionsConfig:
    """Captioned images: where they come from, and how they become the input of a step."""

    directory: str = "."
    sources: tuple[ImageSource, ...] = ()
    image_size: int = within(224, 1, MAX_SIDE)  # side in pixels
    background: tuple[int, int, int] = (255, 255, 255)  # behind transparent images
    max_caption_tokens: int = at_least(30, 3)  # with the special tokens; longer captions are cut
    captions_per_language: int = not_negative(0)  # of an image at most; 0: all
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    held_out: float = under_one(0.02)  # share of what is depicted that is kept from training
    held_out_limit: int = not_negative(
        2_000
    )  # at most that many images (with a caption each) are held out
    held_out_sources: tuple[str, ...] = ()  # wholly kept from training, e.g. a drawing style
    limit: int = not_negative(0)  # read at most that many images a source; 0: all
    decode_first: bool = True  # decode every image once before training, so that none stops it
    decoded_mib: int = not_negative(
        512
    )  # of images stay decoded: a small set is not decoded in every epoch
    skip_bad: bool = False  # leave bad images and captions out, and count them


def validate_captions(config: CaptionsConfig, name: str = "data") -> None:
    """Check every value that can be judged without images.

    Args:
        config: a part of a run's config.
        name: of that part.

    Raises:
        UserError: names the field, its value and the bound it breaks.
    """
    check_bounds(config, f"{name}.")
    augment, part = config.augment, f"{name}.augment"
    for pair in ("crop_scale", "crop_ratio"):
        value = getattr(augment, pair)
        require(len(value) == 2, f"{part}.{pair}", value, "two numbers")
    low, high = augment.crop_scale
    bound = f"two shares over 0, the smaller one first, up to {MAX_FRAME}"
    require(0 < low <= high <= MAX_FRAME, f"{part}.crop_scale", augment.crop_scale, bound)
    low, high = augment.crop_ratio
    bound = "two positive numbers, the smaller one first"
    require(0 < low <= high, f"{part}.crop_ratio", augment.crop_ratio, bound)
    for color, field_name in (
        (config.background, f"{name}.background"),
        (augment.fill, f"{part}.fill"),
    ):
        good = len(color) == 3 and all(0 <= value <= 255 for value in color)
        require(good, field_name, color, "three whole numbers from 0 to 255")
