"""What CLIP does to an image before it looks at it: resize, cut out the centre, normalise.

Dimension key: B images, S side in pixels, C channels.

Resizing is Pillow's, as in OpenAI's code and transformers' CLIPImageProcessor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from jaxir.errors import UserError
from jaxir.models.weights import read_object

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_MOST = 1 << 12  # pixels along a side
_FILES = ("preprocessor_config.json", "processor_config.json")  # the second in new folders


@dataclass(frozen=True)
class Preprocessing:
    """How images are prepared; the defaults are CLIP's at 224 pixels."""

    shortest: int = 224  # the shorter side is resized to it
    squeezed: tuple[int, int] | None = None  # height and width to resize to instead
    crop: tuple[int, int] | None = (224, 224)  # height and width of the centre that is cut out
    resample: int = Image.Resampling.BICUBIC
    scale: float = 1 / 255
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what comes out; of no meaning without a crop or squeezing."""
        return self.crop or self.squeezed or (self.shortest, self.shortest)


def prepared(image: Image.Image, how: Preprocessing) -> Float[np.ndarray, "S S C"]:
    """The pixels of an image that `open_image` opened, normalised, channels last."""
    width, height = image.size
    if how.squeezed is not None:
        new = (how.squeezed[1], how.squeezed[0])
    else:
        # the longer side is rounded down
        longer = int(how.shortest * max(width, height) / min(width, height))
        new = (how.shortest, longer) if width <= height else (longer, how.shortest)
    image = image.resize(new, Image.Resampling(how.resample))
    if how.crop is not None:
        left, top = (new[0] - how.crop[1]) // 2, (new[1] - how.crop[0]) // 2
        # beyond the image is black, as Pillow's crop has it too
        image = image.crop((left, top, left + how.crop[1], top + how.crop[0]))
    pixels = np.asarray(image, np.float32) * np.float32(how.scale)
    return (pixels - np.asarray(how.mean, np.float32)) / np.asarray(how.std, np.float32)


def prepare(images: Sequence[Image.Image], how: Preprocessing) -> Float[np.ndarray, "B S S C"]:
    """The same of several images, one at least."""
    return np.stack([prepared(image, how) for image in images])


def read_preprocessing(folder: Path) -> Preprocessing:
    """What a folder's preprocessor_config.json says, or processor_config.json.

    Raises:
        UserError: there is none, or a field of it is impossible.
    """
    path = next((folder / name for name in _FILES if (folder / name).exists()), folder / _FILES[0])
    values = read_object(path)
    values = values.get("image_processor", values)
    if not isinstance(values, dict):
        raise UserError(f"{path}: image_processor must be an object")
    squeezed, shortest, crop = None, 224, None
    size = values.get("size", 224)
    if values.get("do_resize", True) is not True:
        raise UserError(f"{path}: do_resize = false: images of one size only are not supported")
    if isinstance(size, dict) and "shortest_edge" not in size:
        squeezed = _area(size, "size", path)
    else:
        shortest = _side(size.get("shortest_edge") if isinstance(size, dict) else size, path)
    if values.get("do_center_crop", True):
        crop = _area(values.get("crop_size", 224), "crop_size", path)
    elif squeezed is None:
        raise UserError(f"{path}: do_center_crop = false: then size must have height and width")
    resample = values.get("resample", int(Image.Resampling.BICUBIC))
    if isinstance(resample, bool) or resample not in list(Image.Resampling):
        raise UserError(f"{path}: resample = {resample!r}: must be one of Pillow's, 3 for bicubic")
    scale = values.get("rescale_factor", 1 / 255) if values.get("do_rescale", True) else 1.0
    normal = values.get("do_normalize", True)
    mean = _colors(
        values.get("image_mean", CLIP_MEAN) if normal else (0.0,) * 3, "image_mean", path
    )
    std = _colors(values.get("image_std", CLIP_STD) if normal else (1.0,) * 3, "image_std", path)
    if not (isinstance(scale, int | float) and 0 < scale < 1e6 and min(std) > 0):
        raise UserError(f"{path}: rescale_factor and image_std must be positive")
    return Preprocessing(shortest, squeezed, crop, int(resample), float(scale), mean, std)


def _side(value: Any, path: Path, name: str = "size") -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _MOST:
        raise UserError(f"{path}: {name} = {value!r}: must be from 1 to {_MOST} pixels")
    return value


def _area(value: Any, name: str, path: Path) -> tuple[int, int]:
    """Height and width, of an object with both or of a number that stands for both."""
    if not isinstance(value, dict):
        value = {"height": value, "width": value}
    return _side(value.get("height"), path, name), _side(value.get("width"), path, name)


def _colors(value: Any, name: str, path: Path) -> tuple[float, ...]:
    good = isinstance(value, list | tuple) and len(value) == 3
    if not good or not all(isinstance(one, int | float) and abs(one) < 1e6 for one in value):
        raise UserError(f"{path}: {name} = {value!r}: must be three numbers")
    return tuple(float(one) for one in value)
