"""Images of every mode, and every way in which one can be wrong."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxir.errors import UserError
from jaxir.vision.data.images import MAX_PIXELS, open_image

RAMP = np.arange(0, 240, 20, dtype=np.uint8).reshape(3, 4)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_gray_and_black_and_white_become_equal_channels():
    for image in (Image.fromarray(RAMP), Image.fromarray(RAMP).convert("1")):
        expected = np.asarray(image.convert("L"))
        found = np.asarray(open_image(encoded(image)))
        np.testing.assert_array_equal(found, np.stack([expected] * 3, -1))


@pytest.mark.parametrize("background", [(255, 255, 255), (10, 0, 200)])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_what_is_transparent_shows_the_background(mode, background):
    channels = len(mode)
    values = np.random.default_rng(0).integers(0, 256, (3, 4, channels)).astype(np.uint8)
    values[0, :, -1], values[1, :, -1] = 0, 255
    found = np.asarray(open_image(encoded(Image.fromarray(values, mode)), background=background))
    color = values[..., :1].repeat(3, -1) if mode == "LA" else values[..., :3]
    share = values[..., -1:] / 255.0
    expected = color * share + np.array(background) * (1 - share)
    assert found.shape == (3, 4, 3)
    assert np.abs(found - expected).max() <= 1  # Pillow rounds
    np.testing.assert_array_equal(found[0], np.broadcast_to(background, (4, 3)))
    np.testing.assert_array_equal(found[1], color[1])


def test_palette_with_a_transparent_color():
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 0, 90])
    image.putpixel((1, 0), 1)
    found = np.asarray(open_image(encoded(image, transparency=0), background=(1, 2, 3)))
    np.testing.assert_array_equal(found, [[[1, 2, 3], [0, 0, 90]]])
    opaque = np.asarray(open_image(encoded(image)))
    np.testing.assert_array_equal(opaque, [[[200, 0, 0], [0, 0, 90]]])


def test_a_color_that_png_declares_transparent():
    image = Image.new("RGB", (2, 1), (9, 9, 9))
    image.putpixel((1, 0), (8, 8, 8))
    found = np.asarray(open_image(encoded(image, transparency=(9, 9, 9))))
    np.testing.assert_array_equal(found, [[[255, 255, 255], [8, 8, 8]]])


def test_cmyk_is_what_pillow_makes_of_it():
    image = Image.new("CMYK", (8, 8), (20, 200, 40, 10))
    data = encoded(image, "JPEG")
    found = open_image(data)
    expected = Image.open(io.BytesIO(data)).convert("RGB")
    assert found.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
    assert 0 < np.asarray(found).mean() < 255


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_keep_their_upper_eight(kind):
    deep = (RAMP.astype(np.uint16) << 8) + 77
    found = np.asarray(open_image(encoded(Image.fromarray(deep), kind)))
    np.testing.assert_array_equal(found, np.stack([RAMP] * 3, -1))


def test_the_first_frame_of_several():
    frames = [Image.new("RGB", (2, 2), color) for color in ((255, 0, 0), (0, 0, 255))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(np.asarray(open_image(data))[0, 0], [255, 0, 0])


def noise():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_cut_off_anywhere_is_one_line_that_names_the_file(kind):
    data = encoded(noise(), kind)
    open_image(data)
    for kept in (1, 20, len(data) // 4, len(data) // 2, len(data) * 3 // 4):
        with pytest.raises(UserError, match=r"^photo 7: ") as caught:
            open_image(data[:kept], "photo 7")
        assert "\n" not in str(caught.value)


def test_a_broken_byte_of_a_png_is_seen():
    data = bytearray(encoded(noise()))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(UserError, match="broken image"):
        open_image(bytes(data))


def png_header(width, height):
    """A PNG that says its size and holds next to nothing."""

    def chunk(kind, data):
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    shape = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", shape), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize("size", [(8_192, 8_193), (10_000, 10_000), (60_000, 60_000)])
def test_a_huge_image_is_refused_unread(size, monkeypatch):
    def load(self):
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(UserError, match=f"{MAX_PIXELS:,}"):
        open_image(png_header(*size))


def test_a_line_is_refused():
    open_image(encoded(Image.new("RGB", (2, 512))))
    with pytest.raises(UserError, match="1 x 257 pixels; a side is over 256 times"):
        open_image(encoded(Image.new("RGB", (1, 257))))


def test_no_pixels_no_bytes_no_file_no_image(tmp_path):
    bitmap = bytearray(encoded(Image.new("RGB", (1, 1)), "BMP"))
    bitmap[18:26] = struct.pack("<ii", 0, 1)
    (tmp_path / "text.png").write_text("not one")
    (tmp_path / "empty.png").write_bytes(b"")
    for source, message in (
        (bytes(bitmap), "an image: "),
        (png_header(0, 5), "an image: (0 x 5 pixels|not an image|a broken image)"),
        (tmp_path / "empty.png", r"empty\.png: 0 bytes"),
        (tmp_path / "none.png", r"none\.png: no such image file"),
        (tmp_path, "no such image file"),
        (tmp_path / "text.png", r"text\.png: not an image"),
        (encoded(Image.fromarray(RAMP.astype(np.float32)), "TIFF"), "floating-point"),
    ):
        with pytest.raises(UserError, match=message):
            open_image(source)


def test_a_file_is_read_as_its_bytes_are(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(noise()))
    np.testing.assert_array_equal(np.asarray(open_image(path)), np.asarray(noise()))
    np.testing.assert_array_equal(np.asarray(open_image(str(path))), np.asarray(noise()))
