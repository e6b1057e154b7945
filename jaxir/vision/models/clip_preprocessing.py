"""CLIP's preprocessing of images: resize, centre crop, normalise.

Dimension key: B images, S side in pixels, C channels.

Pillow resizes, as in OpenAI's code and transformers' CLIPImageProcessor.
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
_MAX_SIDE = 1 << 12  # pixels
_FILES = ("preprocessor_config.json", "processor_config.json")  # the second in new folders


@dataclass(frozen=True)
class Preprocessing:
    """Settings of the preprocessing; the defaults are CLIP's at 224 pixels."""

    shortest_edge: int = 224  # length to which the shorter side is resized
    resize_to: tuple[int, int] | None = None  # height and width to resize to instead
    crop: tuple[int, int] | None = (224, 224)  # height and width of the centre crop
    resample: int = Image.Resampling.BICUBIC
    scale: float = 1 / 255
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the result; undefined without `crop` or `resize_to`."""
        return self.crop or self.resize_to or (self.shortest_edge, self.shortest_edge)


def preprocess_image(
    image: Image.Image, preprocessing: Preprocessing
) -> Float[np.ndarray, "S S C"]:
    """Normalised pixels of an image in RGB, channels last."""
    width, height = image.size
    if preprocessing.resize_to is not None:
        new_height, new_width = preprocessing.resize_to
    else:
        shorter = preprocessing.shortest_edge
        # the longer side is rounded down
        longer = int(shorter * max(width, height) / min(width, height))
        new_width, new_height = (shorter, longer) if width <= height else (longer, shorter)
    image = image.resize((new_width, new_height), Image.Resampling(preprocessing.resample))
    if preprocessing.crop is not None:
        crop_height, crop_width = preprocessing.crop
        left, top = (new_width - crop_width) // 2, (new_height - crop_height) // 2
        # a crop larger than the image gets a black border, by Pillow
        image = image.crop((left, top, left + crop_width, top + crop_height))
    pixels = np.asarray(image, np.float32) * np.float32(preprocessing.scale)
    mean, std = (np.asarray(x, np.float32) for x in (preprocessing.mean, preprocessing.std))
    return (pixels - mean) / std


def preprocess(
    images: Sequence[Image.Image], preprocessing: Preprocessing
) -> Float[np.ndarray, "B S S C"]:
    """Normalised pixels of at least one image."""
    return np.stack([preprocess_image(image, preprocessing) for image in images])


def read_preprocessing(folder: Path) -> Preprocessing:
    """The preprocessing of a folder's preprocessor_config.json or processor_config.json.

    Raises:
        UserError: there is no such file, or a field of it is impossible.
    """
    path = next((folder / name for name in _FILES if (folder / name).exists()), folder / _FILES[0])
    values = read_object(path)
    values = values.get("image_processor", values)
    if not isinstance(values, dict):
        raise UserError(f"{path}: image_processor must be an object")
    resize_to, shortest_edge, crop = None, 224, None
    size = values.get("size", 224)
    if values.get("do_resize", True) is not True:
        raise UserError(f"{path}: do_resize = false: images of one size only are not supported")
    if isinstance(size, dict) and "shortest_edge" not in size:
        resize_to = _height_and_width(size, "size", path)
    else:
        shortest_edge = _side(size.get("shortest_edge") if isinstance(size, dict) else size, path)
    if values.get("do_center_crop", True):
        crop = _height_and_width(values.get("crop_size", 224), "crop_size", path)
    elif resize_to is None:
        raise UserError(f"{path}: do_center_crop = false: then size must have height and width")
    resample = values.get("resample", int(Image.Resampling.BICUBIC))
    if isinstance(resample, bool) or resample not in list(Image.Resampling):
        raise UserError(f"{path}: resample = {resample!r}: must be one of Pillow's, 3 for bicubic")
    scale = values.get("rescale_factor", 1 / 255) if values.get("do_rescale", True) else 1.0
    normalizes = values.get("do_normalize", True)
    mean = values.get("image_mean", CLIP_MEAN) if normalizes else (0.0,) * 3
    std = values.get("image_std", CLIP_STD) if normalizes else (1.0,) * 3
    mean, std = _channels(mean, "image_mean", path), _channels(std, "image_std", path)
    if not (isinstance(scale, int | float) and 0 < scale < 1e6 and min(std) > 0):
        raise UserError(f"{path}: rescale_factor and image_std must be positive")
    return Preprocessing(shortest_edge, resize_to, crop, int(resample), float(scale), mean, std)


def _side(value: Any, path: Path, name: str = "size") -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _MAX_SIDE:
        raise UserError(f"{path}: {name} = {value!r}: must be from 1 to {_MAX_SIDE} pixels")
    return value


def _height_and_width(value: Any, name: str, path: Path) -> tuple[int, int]:
    """Height and width, from an object with both or from one number for both."""
    if not isinstance(value, dict):
        value = {"height": value, "width": value}
    return _side(value.get("height"), path, name), _side(value.get("width"), path, name)


def _channels(values: Any, name: str, path: Path) -> tuple[float, ...]:
    good = isinstance(values, list | tuple) and len(values) == 3
    if not good or not all(isinstance(value, int | float) and abs(value) < 1e6 for value in values):
        raise UserError(f"{path}: {name} = {values!r}: must be three numbers")
    return tuple(float(value) for value in values)
