"""Images: stored, decoded within bounds, and kept decoded within a budget of memory.

The size that an image's header declares is checked before any of it is decoded; whatever its
decoder then raises becomes one line that names the file. An EXIF orientation is ignored, as in
CLIP's own code.
"""

import io
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from jaxir.errors import UserError

MAX_BYTES = 1 << 28  # of a file
MAX_PIXELS = 1 << 26  # 64 million: 200 MB once decoded
MAX_RATIO = 256  # of the sides: a thin line would be huge once its shorter side is enlarged
# Pillow reads many more, some by means of other programs
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")
PIXEL_BYTES = 4  # of an image in RGB, as Pillow holds it
WHITE = (255, 255, 255)

Color = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An encoded image that stays in its file until it is read."""

    file: Path
    offset: int = 0  # in bytes, as in a tar
    length: int = -1  # in bytes; -1: the whole file

    def read(self, where: str) -> bytes:
        """The encoded image.

        Raises:
            UserError: it is empty or too large, or its file cannot be read.
        """
        try:
            with self.file.open("rb") as stream:
                size = os.fstat(stream.fileno()).st_size if self.length < 0 else self.length
                _check_bytes(size, where)
                stream.seek(self.offset)
                return stream.read(size)
        except OSError as error:
            raise UserError(f"{where}: cannot be read ({error.strerror})") from None


# encoded bytes, or encoded in a file, or a function that draws the same image each time, in RGB
ImageContent = bytes | StoredImage | Callable[[], Image.Image]


def decode_image(content: ImageContent, where: str, background: Color) -> Image.Image:
    """An image in RGB, on a background where it is transparent.

    Raises:
        UserError: names the location of an image that is broken, empty or too large.
    """
    if callable(content):
        return content()
    data = content.read(where) if isinstance(content, StoredImage) else content
    return open_image(data, where, background)


class DecodedImages:
    """Cache of decoded images that is filled once, up to a number of bytes."""

    def __init__(self, max_bytes: int):
        self._left, self._lock = max_bytes, threading.Lock()
        self._images: dict[tuple[int, Color], Image.Image] = {}

    def get(self, key: tuple[int, Color], decode: Callable[[], Image.Image]) -> Image.Image:
        """The image of that index on that background; it must not be changed."""
        image = self._images.get(key)
        if image is None:
            image = decode()
            size = image.width * image.height * PIXEL_BYTES
            with self._lock:
                if size <= self._left and self._images.setdefault(key, image) is image:
                    self._left -= size
        return image


def open_image(
    source: bytes | str | os.PathLike, where: str = "", background: Color = WHITE
) -> Image.Image:
    """An image in RGB, of the first frame if it has several.

    Args:
        source: path of a file, or its contents.
        where: its location in messages; "": the file's path.
        background: color behind transparent pixels.

    Raises:
        UserError: there is no such file, it is no image of `FORMATS`, it is broken, cut off, empty
            or beyond `MAX_BYTES`, `MAX_PIXELS` and `MAX_RATIO`.
    """
    where = where or ("an image" if isinstance(source, bytes) else os.fspath(source))
    data = source if isinstance(source, bytes) else _read(Path(source), where)
    _check_bytes(len(data), where)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_pixels(image.size, where)
            image.load()
            return _to_rgb(image, where, background)
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(f"{where}: over {MAX_PIXELS:,} pixels; scale it down") from None
    except Image.UnidentifiedImageError:
        names = ", ".join(FORMATS)
        raise UserError(f"{where}: not an image that can be read; it must be {names}") from None
    except Exception as error:  # decoders raise all kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{where}: a broken image ({reason}); fetch it again") from error


def _read(path: Path, where: str) -> bytes:
    try:
        if not path.is_file():
            raise UserError(f"{where}: no such image file")
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror})") from error


def _check_bytes(size: int, where: str) -> None:
    if not 0 < size <= MAX_BYTES:
        raise UserError(f"{where}: {size:,} bytes; an image has from 1 to {MAX_BYTES:,}")


def _check_pixels(size: tuple[int, int], where: str) -> None:
    width, height = size
    if not 0 < width * height <= MAX_PIXELS:
        raise UserError(
            f"{where}: {width} x {height} pixels; an image has from 1 to {MAX_PIXELS:,} of them"
        )
    if max(size) > MAX_RATIO * min(size):
        raise UserError(
            f"{where}: {width} x {height} pixels; a side is over {MAX_RATIO} times the other"
        )


def _to_rgb(image: Image.Image, where: str, background: Color) -> Image.Image:
    if image.mode == "F":
        raise UserError(f"{where}: pixels are floating-point numbers; save it with 8 bits each")
    if image.mode.startswith("I"):  # 16 bits, of which Pillow would keep what is under 256
        deep = np.clip(np.asarray(image).astype(np.int64), 0, 0xFFFF)
        return Image.fromarray((deep >> 8).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    canvas = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(canvas, image.convert("RGBA")).convert("RGB")
