"""Augmentation of training images; the center crop of images to evaluate.

ALBEF (arXiv 2107.07651, section 3.5; its transforms): a random crop, resized, a flip, then
RandAugment (arXiv 1909.13719) "without color changes, because the text often contains color
information": no color, contrast, posterize and solarize operations. Where drawings of the same
thing differ in color, `AugmentConfig.color` changes colors too, in a single matrix product. All of
it is a function of the image and a generator, which the loader seeds with (seed, step, row).
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageEnhance, ImageOps

from jaxir.config import AugmentConfig
from jaxir.vision.data.images import Color

STRONGEST = 10.0  # randaugment_strength
# of the strongest operation
SHEAR = 0.3  # pixels to the side for each pixel down
SHIFT = 10 / 256  # of a side
ANGLE = 30.0  # degrees
CROP_TRIES = 10
MIN_OVERSAMPLING = 4  # pixels of the image for each of the view, along a side, after averaging
# the most that `AugmentConfig.color` = 1 changes: three factors, off 1 by that much; hue, in turns
BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.6, 0.6, 1.0, 0.1
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
MID_GREY = 128.0

Operation = Callable[[Image.Image, float, Color], Image.Image]


def _affine(image: Image.Image, matrix: tuple[float, ...], fill: Color) -> Image.Image:
    """Affine transform: pixel (x, y) of the result is pixel matrix @ (x, y, 1) of the image."""
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
    """Enhancement factor from 0.1 to 1.9, whatever the sign; 1, no change, at half strength."""
    return abs(strength) * 1.8 + 0.1


def _brightness(image: Image.Image, strength: float, fill: Color) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(_factor(strength))


def _sharpness(image: Image.Image, strength: float, fill: Color) -> Image.Image:
    return ImageEnhance.Sharpness(image).enhance(_factor(strength))


def _shear_x(image: Image.Image, strength: float, fill: Color) -> Image.Image:
    return _affine(image, (1, SHEAR * strength, 0, 0, 1, 0), fill)


def _shear_y(image: Image.Image, strength: float, fill: Color) -> Image.Image:
    return _affine(image, (1, 0, 0, SHEAR * strength, 1, 0), fill)


def _translate_x(image: Image.Image, strength: float, fill: Color) -> Image.Image:
    return _affine(image, (1, 0, SHIFT * strength * image.width, 0, 1, 0), fill)


def _translate_y(image: Image.Image, strength: float, fill: Color) -> Image.Image:
    return _affine(image, (1, 0, 0, 0, 1, SHIFT * strength * image.height), fill)


def _rotate(image: Image.Image, strength: float, fill: Color) -> Image.Image:
    return image.rotate(ANGLE * strength, Image.Resampling.BILINEAR, fillcolor=fill)


# each takes a strength from -1 to 1; its sign is the direction of a shear, shift or rotation
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
    """Box of a random crop, which may exceed the image: left, top, right and bottom in pixels.

    Its share of the area is uniform in `crop_scale` and the logarithm of width / height uniform in
    that of `crop_ratio`. If ten tries do not fit, it is the center, as close to that ratio as
    possible (Inception's crop, arXiv 1409.4842, section 6). With a share over 1 the box reaches
    beyond the image, on one side at least.
    """
    narrowest, widest = config.crop_ratio
    for _ in range(CROP_TRIES):
        share = rng.uniform(*config.crop_scale)
        area = width * height * share
        ratio = math.exp(rng.uniform(math.log(narrowest), math.log(widest)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if share > 1 or (0 < w <= width and 0 < h <= height):
            left, top = _random_offset(width, w, rng), _random_offset(height, h, rng)
            return left, top, left + w, top + h
    w = min(width, max(1, round(height * widest)))
    h = min(height, max(1, round(width / narrowest)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _random_offset(side: int, part: int, rng: np.random.Generator) -> int:
    """Random offset of a part of a side: within the side, or around it if the part is longer."""
    return int(rng.integers(min(side - part, 0), max(side - part, 0) + 1))


def downscale(image: Image.Image, size: int) -> Image.Image:
    """The image, averaged down to `MIN_OVERSAMPLING` times `size` pixels a side or a few more."""
    factor = min(image.size) // (MIN_OVERSAMPLING * size)
    return image.reduce(factor) if factor > 1 else image


def _crop(image: Image.Image, box: tuple[int, int, int, int], fill: Color) -> Image.Image:
    """The part of an image in a box, with `fill` where the box exceeds the image."""
    left, top, right, bottom = box
    if left >= 0 and top >= 0 and right <= image.width and bottom <= image.height:
        return image.crop(box)
    canvas = Image.new("RGB", (right - left, bottom - top), fill)
    canvas.paste(image, (-left, -top))
    return canvas


def rand_augment(
    image: Image.Image, config: AugmentConfig, rng: np.random.Generator
) -> Image.Image:
    """RandAugment: operations drawn with replacement, each applied with probability 1/2."""
    names = list(OPERATIONS)
    for _ in range(config.randaugment_operations):
        name = names[rng.integers(len(names))]
        applied, sign = rng.random() < 0.5, rng.choice((-1.0, 1.0))
        if applied:
            strength = sign * config.randaugment_strength / STRONGEST
            image = OPERATIONS[name](image, strength, config.fill)
    return image


def color_matrix(strength: float, rng: np.random.Generator) -> Float[np.ndarray, "3 4"]:
    """Matrix of a random change of colors: (R, G, B, 1) to (R, G, B).

    Hue (a rotation around the greys), saturation, contrast and brightness, in this order, each
    uniform in the range that `strength`, from 0 to 1, allows.
    """
    draws = rng.uniform(-strength, strength, 4) * (BRIGHTNESS, CONTRAST, SATURATION, HUE)
    brightness, contrast, saturation = 1 + draws[:3]
    cos, sin = np.cos(2 * np.pi * draws[3]), np.sin(2 * np.pi * draws[3])
    # Rodrigues' formula around (1, 1, 1) / sqrt(3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    hue = cos * np.eye(3) + (1 - cos) / 3 + sin * cross
    grey = np.tile(LUMA, (3, 1))
    linear = contrast * (saturation * np.eye(3) + (1 - saturation) * grey) @ hue
    offset = np.full((3, 1), (1 - contrast) * MID_GREY)
    return brightness * np.hstack([linear, offset])


def augment_image(
    image: Image.Image, size: int, config: AugmentConfig, rng: np.random.Generator
) -> Image.Image:
    """A training view of an image: crop, resize, flip, colors, RandAugment.

    Args:
        image: in RGB.
        size: side of the result, in pixels.
        config: range of each change.
        rng: draws the changes; the same state gives the same view.
    """
    if config.crop_scale[1] > 1:  # a huge image with a margin around it would fill the memory
        image = downscale(image, size)
    image = _crop(image, crop_box(*image.size, config, rng), config.fill)
    image = image.resize((size, size), Image.Resampling.BICUBIC)
    if rng.random() < 0.5 and config.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if config.color:
        matrix = color_matrix(config.color, rng)
        image = image.convert("RGB", tuple(matrix.reshape(-1).tolist()))
    return rand_augment(image, config, rng)


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """Center of an image, as a square of `size` pixels a side.

    Cropped before resizing: a thin line, resized as a whole, would not fit into memory.
    """
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BICUBIC, box)
