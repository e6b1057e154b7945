"""Augmentation: each operation against NumPy or SciPy, and what chance may do."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy.ndimage import affine_transform

from jaxir.config import AugmentConfig
from jaxir.vision.data.augment import (
    ANGLE,
    BRIGHTNESS,
    CONTRAST,
    HUE,
    MID_GREY,
    OPERATIONS,
    SATURATION,
    SHEAR,
    SHIFT,
    augment_image,
    color_matrix,
    crop_box,
    downscale,
    rand_augment,
)

FILL = (10, 20, 30)


@pytest.fixture(scope="module")
def image():
    """Smooth, so that interpolation decides, with a narrow range of values."""
    y, x = np.mgrid[:24, :24]
    channels = [60 + 3 * x + y, 100 + 40 * np.sin(x / 5) * np.cos(y / 4), 90 + 2 * y]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def values(image):
    return np.asarray(image).astype(float)


def warped(image, matrix, offset):
    """Pixel centres lie at halves: out(p) = in(matrix p + offset), p = (row, column)."""
    half = np.full(2, 0.5)
    shift = matrix @ half + offset - half
    channels = [
        affine_transform(values(image)[..., c], matrix, shift, order=1, cval=np.nan)
        for c in range(3)
    ]
    return np.stack(channels, axis=-1)


@pytest.mark.parametrize("strength", [0.7, -0.7, 1.0, -0.2])
def test_geometry_is_scipys(image, strength):
    side, angle = image.width, np.deg2rad(ANGLE * strength)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    middle = np.full(2, side / 2)
    shift = SHIFT * strength * side
    expected = {
        "ShearX": (np.array([[1, 0], [SHEAR * strength, 1]]), np.zeros(2)),
        "ShearY": (np.array([[1, SHEAR * strength], [0, 1]]), np.zeros(2)),
        "TranslateX": (np.eye(2), np.array([0, shift])),
        "TranslateY": (np.eye(2), np.array([shift, 0])),
        "Rotate": (turn, middle - turn @ middle),
    }
    for name, (matrix, offset) in expected.items():
        found = values(OPERATIONS[name](image, strength, FILL))
        wanted = warped(image, matrix, offset)
        inside = ~np.isnan(wanted)
        assert inside.mean() > 0.6
        assert np.abs(found - wanted)[inside].max() <= 1.01, name  # rounding


@pytest.mark.parametrize("name", ["ShearX", "ShearY", "Rotate"])
def test_what_is_not_there_is_filled(image, name):
    found = np.asarray(OPERATIONS[name](image, 1.0, FILL))
    assert (found == FILL).all(axis=-1).any()


def test_values_are_numpys(image):
    pixels = values(image)
    low, high = pixels.min(axis=(0, 1)), pixels.max(axis=(0, 1))
    stretched = (pixels - low) / (high - low) * 255
    assert np.abs(values(OPERATIONS["AutoContrast"](image, 0.7, FILL)) - stretched).max() <= 1
    for strength in (0.7, -0.7, 0.1):
        factor = 1.8 * abs(strength) + 0.1
        bright = np.clip(pixels * factor, 0, 255)
        assert np.abs(values(OPERATIONS["Brightness"](image, strength, FILL)) - bright).max() <= 1
    assert OPERATIONS["Identity"](image, 0.7, FILL) is image


def test_sharpness_leaves_or_blurs_by_its_kernel(image):
    """The published kernel: 1 around, 5 in the middle, over 13; edges stay."""
    pixels = values(image)
    blurred = pixels.copy()
    around = sum(np.roll(pixels, (dy, dx), axis=(0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1))
    blurred[1:-1, 1:-1] = ((around + 4 * pixels) / 13)[1:-1, 1:-1]
    for strength in (0.1, 0.7, 1.0):
        factor = 1.8 * strength + 0.1
        expected = np.clip(np.round(blurred) + factor * (pixels - np.round(blurred)), 0, 255)
        found = values(OPERATIONS["Sharpness"](image, strength, FILL))
        assert np.abs(found - expected).max() <= 1.01 + factor


def test_equalize_spreads_the_values():
    """A value goes to its rank among the pixels below it, over an even step."""
    rng = np.random.default_rng(0)
    noisy = rng.integers(100, 140, (64, 64, 3)).astype(np.uint8)
    found = np.asarray(OPERATIONS["Equalize"](Image.fromarray(noisy), 0.7, FILL))
    for channel in range(3):
        counts = np.bincount(noisy[..., channel].reshape(-1), minlength=256)
        step = (counts.sum() - counts[139]) // 255
        ranks = (np.cumsum(counts) - counts + step // 2) // step
        expected = np.minimum(ranks, 255)[noisy[..., channel]]
        np.testing.assert_array_equal(found[..., channel], expected)
    assert found.min() == 0
    assert found.max() == 255


def test_crops_have_the_shares_and_ratios_of_the_config():
    config = AugmentConfig(crop_scale=(0.3, 0.6))
    rng = np.random.default_rng(0)
    boxes = np.array([crop_box(400, 300, config, rng) for _ in range(2000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= 400
    assert boxes[:, 3].max() <= 300
    share, ratio = width * height / (400 * 300), width / height
    assert 0.29 < share.min() < 0.32
    assert 0.58 < share.max() < 0.61
    assert abs(share.mean() - 0.45) < 0.01
    assert 0.73 < ratio.min() < 0.78
    assert 1.29 < ratio.max() < 1.36
    assert abs(np.log(ratio).mean()) < 0.01
    assert len({tuple(box[:2]) for box in boxes.tolist()}) > 1000


@pytest.mark.parametrize("size", [(1000, 10), (10, 1000), (1, 1), (3, 1)])
def test_a_crop_of_any_image_lies_in_it(size):
    rng = np.random.default_rng(0)
    for _ in range(50):
        left, top, right, bottom = crop_box(*size, AugmentConfig(), rng)
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]
    assert augment_image(Image.new("RGB", size), 8, AugmentConfig(), rng).size == (8, 8)


def test_a_crop_may_hold_the_image_within_a_frame():
    config = AugmentConfig(crop_scale=(1.0, 4.0), crop_ratio=(1.0, 1.0), fill=FILL)
    rng = np.random.default_rng(0)
    boxes = np.array([crop_box(100, 100, config, rng) for _ in range(500)])
    assert boxes[:, :2].max() <= 0
    assert boxes[:, 2:].min() >= 100
    assert 1 < np.mean((boxes[:, 2] - boxes[:, 0]) / 100) ** 2 < 4
    assert len({tuple(box[:2]) for box in boxes.tolist()}) > 400
    config = AugmentConfig((4.0, 4.0), (1.0, 1.0), flip=False, randaugment_operations=0, fill=FILL)
    white = Image.new("RGB", (20, 20), (255, 255, 255))
    found = values(augment_image(white, 40, config, np.random.default_rng(1)))
    assert found.shape == (40, 40, 3)
    inside = (found == 255).all(axis=2)
    assert inside.sum() == 20 * 20
    np.testing.assert_array_equal(found[~inside], np.tile(FILL, (40 * 40 - 20 * 20, 1)))


def test_a_huge_image_is_made_smaller_before_it_is_framed(image):
    assert downscale(image, 8) is image
    huge = image.resize((2400, 1200), Image.Resampling.NEAREST)
    small = downscale(huge, 8)
    assert small.size == (65, 33)
    np.testing.assert_allclose(values(small)[:32], values(huge.resize((65, 33)))[:32], atol=12)
    config = AugmentConfig((1.0, 4.0), flip=False, randaugment_operations=0, fill=FILL)
    views = [augment_image(x, 8, config, np.random.default_rng(2)) for x in (huge, small)]
    np.testing.assert_array_equal(*map(values, views))


class Draws:
    """A generator that draws what it is told."""

    def __init__(self, **draws):
        names = ("brightness", "contrast", "saturation", "hue")
        self.draws = np.array([draws.get(name, 0.0) for name in names])

    def uniform(self, low, high, size):
        assert (low, high, size) == (-1.0, 1.0, 4)
        return self.draws


def recolored(image, **draws):
    matrix = color_matrix(1.0, Draws(**draws)).reshape(-1).tolist()
    return values(image.convert("RGB", tuple(matrix)))


@pytest.mark.parametrize("draw", [-0.9, -0.3, 0.0, 0.4])
def test_colors_are_pillows_and_numpys(image, draw):
    brighter = ImageEnhance.Brightness(image).enhance(1 + BRIGHTNESS * draw)
    np.testing.assert_allclose(recolored(image, brightness=draw), values(brighter), atol=1)
    purer = ImageEnhance.Color(image).enhance(1 + SATURATION * draw)
    np.testing.assert_allclose(recolored(image, saturation=draw), values(purer), atol=1.5)
    expected = MID_GREY + (values(image) - MID_GREY) * (1 + CONTRAST * draw)
    found = recolored(image, contrast=draw)
    np.testing.assert_allclose(found, np.clip(expected, 0, 255), atol=1)


def test_a_third_of_a_turn_of_the_hue_swaps_the_channels(image):
    turned = recolored(image, hue=1 / (3 * HUE))
    np.testing.assert_allclose(turned, values(image)[..., [2, 0, 1]], atol=1)


def test_greys_stay_grey_and_strength_bounds_the_change():
    rng = np.random.default_rng(0)
    grey = np.array([[90.0, 90, 90, 1], [200, 200, 200, 1]]).T
    found = np.stack([color_matrix(0.5, rng) @ grey for _ in range(500)])
    np.testing.assert_allclose(found, np.broadcast_to(found[:, :1], found.shape), atol=1e-9)
    # the contrast acts before the brightness
    high = (MID_GREY + (200 - MID_GREY) * (1 + CONTRAST / 2)) * (1 + BRIGHTNESS / 2)
    low = (MID_GREY + (200 - MID_GREY) * (1 - CONTRAST / 2)) * (1 - BRIGHTNESS / 2)
    assert low < found[:, 0, 1].min() < low + 15
    assert high - 15 < found[:, 0, 1].max() < high
    np.testing.assert_allclose(color_matrix(0.0, rng), np.eye(3, 4), atol=1e-12)


def test_half_of_the_images_are_flipped_if_at_all(image):
    whole = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "randaugment_operations": 0}
    flipped = values(image)[:, ::-1]
    for flip, expected in [(True, 0.5), (False, 0.0)]:
        config = AugmentConfig(**whole, flip=flip)
        found = [
            values(augment_image(image, 24, config, np.random.default_rng((3, row))))
            for row in range(200)
        ]
        turned = np.array([(pixels == flipped).all() for pixels in found])
        same = np.array([(pixels == values(image)).all() for pixels in found])
        assert (turned | same).all()
        assert abs(turned.mean() - expected) < 0.1


def test_every_operation_takes_part_and_half_of_them_are_left_out(image, monkeypatch):
    used = []

    def watched(name):
        def operation(image, strength, fill):
            used.append((name, round(strength, 6)))
            return image

        return operation

    for name in list(OPERATIONS):
        monkeypatch.setitem(OPERATIONS, name, watched(name))
    rng = np.random.default_rng(0)
    for _ in range(2000):
        rand_augment(image, AugmentConfig(randaugment_operations=2), rng)
    assert abs(len(used) - 2000) < 100
    names = [name for name, _ in used]
    assert {strength for _, strength in used} == {0.7, -0.7}
    counts = [names.count(name) for name in OPERATIONS]
    assert min(counts) > 140
    assert max(counts) < 260


def test_the_same_generator_makes_the_same_image(image):
    config = AugmentConfig()
    first, again, other = (
        values(augment_image(image, 32, config, np.random.default_rng(key)))
        for key in ((0, 5, 7), (0, 5, 7), (0, 5, 8))
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
