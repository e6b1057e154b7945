"""A training image, changed at random; an image to evaluate, cut without chance.

ALBEF (arXiv 2107.07651, section 3.5; its transforms): a random crop, resized, a flip, then
RandAugment (arXiv 1909.13719) "without color changes, because the text often contains color
information": no colour, contrast, posterize and solarize operations. Where drawings of one thing
differ in their colours, `AugmentConfig.color` changes those too, all at once by one matrix. All of
it is a function of the image and a generator, which the loader makes of (seed, step, row).
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageEnhance, ImageOps

from jaxir.config import AugmentConfig
from jaxir.vision.data.images import Color

STRONGEST = 10.0  # randaugment_strength
SHEAR = 0.3  # of the strongest: pixels to the side for each pixel down
SHIFT = 10 / 256  # of a side
ANGLE = 30.0  # degrees
CROP_TRIES = 10
ENOUGH = 4  # pixels of an image to each of its view, along a side
# the most that `AugmentConfig.color` = 1 changes: factors by so much of 1, and turns of the hue
BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.6, 0.6, 1.0, 0.1
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
MIDDLE = 128.0

Operation = Callable[[Image.Image, float, Color], Image.Image]


def _warped(image: Image.Image, matrix: tuple[float, ...], fill: Color) -> Image.Image:
    """The image whose pixel (x, y) is that at matrix (x, y, 1) of the given one."""
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=fill
    )


def _identity(image: Image.Image, strength: float, fill: Color) -> Image.Image:
    return image


def _autocontrast(image: Image.Image, strength: float, fill: Color) -> Image.Image:
    return ImageOps.autocontrast(image)


def _equalize(image: Image.Image, strength: float, fill: Color) -> Image.Image:
    return ImageOps.equalize(image)


def _factor(strength: float) -> float:
    """From 0.1 to 1.9, unchanged at half of the strongest, whatever the sign."""
    return abs(strength) * 1.8 + 0.1


def _brightness(image: Image.Image, strength: float, fill: Color) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(_factor(strength))


def _sharpness(image: Image.Image, strength: float, fill: Color) -> Image.Image:
    return ImageEnhance.Sharpness(image).enhance(_factor(strength))


def _shear_x(image: Image.Image, strength: float, fill: Color) -> Image.Image:
    return _warped(image, (1, SHEAR * strength, 0, 0, 1, 0), fill)


def _shear_y(image: Image.Image, strength: float, fill: Color) -> Image.Image:
    return _warped(image, (1, 0, 0, SHEAR * strength, 1, 0), fill)


def _translate_x(image: Image.Image, strength: float, fill: Color) -> Image.Image:
    return _warped(image, (1, 0, SHIFT * strength * image.width, 0, 1, 0), fill)


def _translate_y(image: Image.Image, strength: float, fill: Color) -> Image.Image:
    return _warped(image, (1, 0, 0, 0, 1, SHIFT * strength * image.height), fill)


def _rotate(image: Image.Image, strength: float, fill: Color) -> Image.Image:
    return image.rotate(ANGLE * strength, Image.Resampling.BILINEAR, fillcolor=fill)


# each takes a strength from -1 to 1, whose sign is the direction where there is one
OPERATIONS: dict[str, Operation] = {
    "Identity": _identity,
    "AutoContrast": _autocontrast,
    "Equalize": _equalize,
    "Brightness": _brightness,
    "Sharpness": _sharpness,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
    "Rotate": _rotate,
}


def crop_box(
    width: int, height: int, config: AugmentConfig, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A random part of an image, or more than it: left, top, right and bottom in pixels.

    Its share of the area is uniform in `crop_scale` and the logarithm of width / height uniform in
    that of `crop_ratio`; after ten tries that do not fit, the middle, as near to that ratio as can
    be (Inception's crop, arXiv 1409.4842, section 6). Over 1 the box reaches beyond the image, on
    one side at least.
    """
    narrowest, widest = config.crop_ratio
    for _ in range(CROP_TRIES):
        share = rng.uniform(*config.crop_scale)
        area = width * height * share
        ratio = math.exp(rng.uniform(math.log(narrowest), math.log(widest)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if share > 1 or (0 < w <= width and 0 < h <= height):
            left, top = _start(width, w, rng), _start(height, h, rng)
            return left, top, left + w, top + h
    w = min(width, max(1, round(height * widest)))
    h = min(height, max(1, round(width / narrowest)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _start(side: int, part: int, rng: np.random.Generator) -> int:
    """Where a part of a side begins that lies within it; or that has the side within itself."""
    return int(rng.integers(min(side - part, 0), max(side - part, 0) + 1))


def reduced(image: Image.Image, size: int) -> Image.Image:
    """The image, averaged down to a few times `size` pixels a side if it is larger."""
    factor = min(image.size) // (ENOUGH * size)
    return image.reduce(factor) if factor > 1 else image


def _cropped(image: Image.Image, box: tuple[int, int, int, int], fill: Color) -> Image.Image:
    """What a box holds, and around the image nothing but `fill`."""
    left, top, right, bottom = box
    if left >= 0 and top >= 0 and right <= image.width and bottom <= image.height:
        return image.crop(box)
    canvas = Image.new("RGB", (right - left, bottom - top), fill)
    canvas.paste(image, (-left, -top))
    return canvas


def rand_augment(
    image: Image.Image, config: AugmentConfig, rng: np.random.Generator
) -> Image.Image:
    """The image after some operations, drawn with replacement; each is left out half the time."""
    names = list(OPERATIONS)
    for _ in range(config.randaugment_operations):
        name = names[rng.integers(len(names))]
        applied, sign = rng.random() < 0.5, rng.choice((-1.0, 1.0))
        if applied:
            strength = sign * config.randaugment_strength / STRONGEST
            image = OPERATIONS[name](image, strength, config.fill)
    return image


def color_matrix(strength: float, rng: np.random.Generator) -> Float[np.ndarray, "3 4"]:
    """A random change of colours: RGB and 1 to RGB.

    Hue (a turn around the greys), saturation, contrast and brightness, in this order, each drawn
    evenly from what `strength`, from 0 to 1, allows.
    """
    draws = rng.uniform(-strength, strength, 4) * (BRIGHTNESS, CONTRAST, SATURATION, HUE)
    brightness, contrast, saturation = 1 + draws[:3]
    cos, sin = np.cos(2 * np.pi * draws[3]), np.sin(2 * np.pi * draws[3])
    # Rodrigues' formula around (1, 1, 1) / sqrt(3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    turned = cos * np.eye(3) + (1 - cos) / 3 + sin * cross
    grey = np.tile(LUMA, (3, 1))
    linear = contrast * (saturation * np.eye(3) + (1 - saturation) * grey) @ turned
    offset = np.full((3, 1), (1 - contrast) * MIDDLE)
    return brightness * np.hstack([linear, offset])


def augmented(
    image: Image.Image, size: int, config: AugmentConfig, rng: np.random.Generator
) -> Image.Image:
    """A training view of an image.

    Args:
        image: in RGB.
        size: side of the result, in pixels.
        config: how much may change.
        rng: decides the rest.
    """
    if config.crop_scale[1] > 1:  # a frame around a huge image would fill the memory
        image = reduced(image, size)
    image = _cropped(image, crop_box(*image.size, config, rng), config.fill)
    image = image.resize((size, size), Image.Resampling.BICUBIC)
    if rng.random() < 0.5 and config.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if config.color:
        matrix = color_matrix(config.color, rng)
        image = image.convert("RGB", tuple(matrix.reshape(-1).tolist()))
    return rand_augment(image, config, rng)


def centred(image: Image.Image, size: int) -> Image.Image:
    """The middle of an image whose shorter side is made `size` pixels long.

    It is cut while it is resized: the whole of a thin line would not fit into memory.
    """
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BICUBIC, box)
