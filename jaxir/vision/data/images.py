"""Image files, opened within bounds.

What an image is said to be is checked before any of it is decoded; what its decoder then stumbles
over is one line that names the file. Nothing is turned upright: an EXIF orientation is ignored, as
CLIP's own code does.
"""

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

from jaxir.errors import UserError

MAX_BYTES = 1 << 28  # of a file
MAX_PIXELS = 1 << 26  # 64 million: 200 MB once decoded
MAX_RATIO = 256  # of the sides: a thin line would be huge once its shorter side is enlarged
# Pillow reads many more, some by means of other programs
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
WHITE = (255, 255, 255)

Color = tuple[int, int, int]


def open_image(
    source: bytes | str | os.PathLike, where: str = "", background: Color = WHITE
) -> Image.Image:
    """An image in RGB, of the first frame if it has several.

    Args:
        source: its file, or what the file holds.
        where: how messages name it; "": by the file's path.
        background: stands behind what is transparent.

    Raises:
        UserError: there is no such file, it is no image of `FORMATS`, it is broken, cut off, empty
            or beyond `MAX_BYTES`, `MAX_PIXELS` and `MAX_RATIO`.
    """
    where = where or ("an image" if isinstance(source, bytes) else os.fspath(source))
    data = source if isinstance(source, bytes) else _read(Path(source), where)
    if not 0 < len(data) <= MAX_BYTES:
        raise UserError(f"{where}: {len(data):,} bytes; an image has from 1 to {MAX_BYTES:,}")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image.size, where)
            image.load()
            return _in_rgb(image, where, background)
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


def _check_size(size: tuple[int, int], where: str) -> None:
    width, height = size
    if not 0 < width * height <= MAX_PIXELS:
        raise UserError(
            f"{where}: {width} x {height} pixels; an image has from 1 to {MAX_PIXELS:,} of them"
        )
    if max(size) > MAX_RATIO * min(size):
        raise UserError(
            f"{where}: {width} x {height} pixels; a side is over {MAX_RATIO} times the other"
        )


def _in_rgb(image: Image.Image, where: str, background: Color) -> Image.Image:
    if image.mode == "F":
        raise UserError(f"{where}: pixels are floating-point numbers; save it with 8 bits each")
    if image.mode.startswith("I"):  # 16 bits, of which Pillow would keep what is under 256
        deep = np.clip(np.asarray(image).astype(np.int64), 0, 0xFFFF)
        return Image.fromarray((deep >> 8).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    behind = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(behind, image.convert("RGBA")).convert("RGB")
