"""Webdataset: tars of samples, each some files that share their name up to the first dot."""

import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from jaxir.config import ImageSource
from jaxir.data.files import MAX_LINE, parse_json, resolve
from jaxir.errors import UserError
from jaxir.vision.data.caption_fields import FoundCaptions, read_fields
from jaxir.vision.data.captioned import IMAGE_SUFFIXES, CaptionedImage, Checks, StoredImage


def _samples(archive: tarfile.TarFile) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """Members that follow each other and share a name up to the first dot of its last part."""
    key = ""
    members: dict[str, tarfile.TarInfo] = {}
    for member in archive:
        if not member.isreg() or member.issparse():
            continue
        path = PurePosixPath(member.name)
        stem, _, suffix = path.name.partition(".")
        if (own := str(path.parent / stem)) != key:
            if members:
                yield key, members
            key, members = own, {}
        members[f".{suffix.lower()}"] = member
    if members:
        yield key, members


def _check_end(archive: tarfile.TarFile, file: Path) -> None:
    """`tarfile` takes a damaged header for the end, which is a block of zeros."""
    with file.open("rb") as stream:
        stream.seek(archive.offset)
        if any(stream.read(tarfile.BLOCKSIZE)):
            raise UserError(f"{file}: damaged at byte {archive.offset:,}; fetch it again")


def _member_text(archive: tarfile.TarFile, member: tarfile.TarInfo, where: str) -> str:
    if member.size > MAX_LINE:
        raise UserError(f"{where}: {member.name} of {member.size:,} bytes; at most {MAX_LINE:,}")
    stream = archive.extractfile(member)
    assert stream is not None  # of a regular file
    try:
        return stream.read().decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: {member.name} is not UTF-8 ({error.reason})") from None


def _sample_captions(
    archive: tarfile.TarFile,
    members: Mapping[str, tarfile.TarInfo],
    source: ImageSource,
    where: str,
) -> FoundCaptions | None:
    """From KEY.json if it has captions (some hold other facts), else from KEY.txt."""
    record: Any = {}
    if ".json" in members:
        record = parse_json(_member_text(archive, members[".json"], where), where)
        if not isinstance(record, dict):
            raise UserError(f"{where}: the JSON is a {type(record).__name__}, not an object")
    if ".txt" in members and not {"captions", "caption"} & record.keys():
        text = _member_text(archive, members[".txt"], where)
        record = {**record, "caption": text}
    return read_fields(record, source, where) if record else None


def read_webdataset(
    source: ImageSource, directory: Path, checks: Checks
) -> Iterator[CaptionedImage]:
    """Tars of samples KEY.jpg (or .png, .webp), KEY.json or KEY.txt; images stay in the tars.

    Raises:
        UserError: names tar and key.
    """
    for file in resolve(directory, source.images, ".tar"):
        try:
            with tarfile.open(file, "r:") as archive:
                for key, members in _samples(archive):
                    yield from _sample(archive, file, key, members, source, checks)
                _check_end(archive, file)
        except tarfile.TarError as error:
            raise UserError(f"{file}: not a whole, uncompressed tar ({error})") from None


def _sample(
    archive: tarfile.TarFile,
    file: Path,
    key: str,
    members: Mapping[str, tarfile.TarInfo],
    source: ImageSource,
    checks: Checks,
) -> Iterator[CaptionedImage]:
    where = f"{file}: {key}"
    image = next((members[suffix] for suffix in IMAGE_SUFFIXES if suffix in members), None)
    try:
        own = _sample_captions(archive, members, source, where)
    except UserError as error:
        checks.bad("unreadable_captions", str(error))
        return
    if image and own:
        stored = StoredImage(file, image.offset_data, image.size)
        yield CaptionedImage(key, where, stored, own.captions, own.group)
    elif image:
        checks.bad("image_without_captions", f"{where}: no captions for {image.name}")
    elif own:
        checks.bad("captions_without_image", f"{where}: captions, but no image")
