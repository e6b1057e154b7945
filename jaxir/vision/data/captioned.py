"""An image with its captions, as a reader hands it over, and what to do about a bad one.

A reader (`jaxir.vision.data.sources.READERS`) is a generator function `(source, directory, checks)`
that yields `CaptionedImage`. It checks what only it can see (files, rows, names); captions,
languages and the images themselves are checked by `jaxir.vision.data.captions` for all readers.
"""

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from jaxir.config import ImageSource
from jaxir.errors import UserError
from jaxir.vision.data.images import MAX_BYTES, Color, open_image

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")
LOGGED_BAD = 20  # of each reason
PIXEL_BYTES = 4  # of an image in RGB, as Pillow holds it


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An encoded image that stays in its file until it is asked for."""

    file: Path
    offset: int = 0  # in bytes, as in a tar
    length: int = -1  # -1: the whole file

    def read(self, where: str) -> bytes:
        """The encoded image.

        Raises:
            UserError: it is empty or too large, or its file cannot be read.
        """
        try:
            with self.file.open("rb") as stream:
                size = os.fstat(stream.fileno()).st_size if self.length < 0 else self.length
                check_size(size, where)
                stream.seek(self.offset)
                return stream.read(size)
        except OSError as error:
            raise UserError(f"{where}: cannot be read ({error.strerror})") from None


# encoded, encoded in a file, or drawn when it is asked for: the same image each time, in RGB
ImageContent = bytes | StoredImage | Callable[[], Image.Image]


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """An image and its captions."""

    name: str  # distinct within its `ImageSource`
    where: str  # to name in a message: "file:line: image NAME", "shard.tar: KEY"
    image: ImageContent
    captions: Mapping[str, Sequence[str]]  # language: one or more captions
    group: str = ""  # what is depicted; images of one group are never each other's negatives
    source: str = ""  # the part of the image set that reports and splits name; "": its source's


@dataclass
class Checks:
    """What happens to bad input: it stops the reading, or it is left out and counted."""

    skip_bad: bool = False
    counts: Counter[str] = field(default_factory=Counter)  # of what was left out, by reason

    def bad(self, reason: str, message: str) -> None:
        """Leave something out.

        Args:
            reason: under which it is counted, e.g. "broken_image".
            message: where, what is wrong and how to mend it.

        Raises:
            UserError: the message, since bad input is not to be skipped.
        """
        if not self.skip_bad:
            raise UserError(f"{message} (skip_bad=True leaves it out)")
        self.counts[reason] += 1
        if self.counts[reason] <= LOGGED_BAD:
            logger.warning("left out: %s", message)


Reader = Callable[[ImageSource, Path, Checks], Iterator[CaptionedImage]]


def check_size(size: int, where: str) -> None:
    """Refuse an encoded image before it is read.

    Raises:
        UserError: it has no bytes, or more than any image is read of.
    """
    if not 0 < size <= MAX_BYTES:
        raise UserError(f"{where}: {size:,} bytes; an image has from 1 to {MAX_BYTES:,}")


def decoded(content: ImageContent, where: str, background: Color) -> Image.Image:
    """An image in RGB, on a background where it is transparent.

    Raises:
        UserError: names the place of an image that is broken, empty or too large.
    """
    if callable(content):
        return content()
    data = content.read(where) if isinstance(content, StoredImage) else content
    return open_image(data, where, background)


class DecodedImages:
    """Images in RGB that need not be decoded again, as many as the memory for them holds."""

    def __init__(self, most_bytes: int):
        self._left, self._lock = most_bytes, threading.Lock()
        self._images: dict[tuple[int, Color], Image.Image] = {}

    def get(self, key: tuple[int, Color], decode: Callable[[], Image.Image]) -> Image.Image:
        """The image with that number and background; nobody may change it."""
        image = self._images.get(key)
        if image is None:
            image = decode()
            size = image.width * image.height * PIXEL_BYTES
            with self._lock:
                if size <= self._left and self._images.setdefault(key, image) is image:
                    self._left -= size
        return image
