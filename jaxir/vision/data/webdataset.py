"""Webdataset: tars of samples, each some files that share their name up to the first dot."""

import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from jaxir.config import ImageSource
from jaxir.data.checks import InputChecks
from jaxir.data.files import MAX_LINE, find_files, parse_json
from jaxir.errors import UserError
from jaxir.vision.data.caption_fields import CaptionRecord, parse_captions
from jaxir.vision.data.images import IMAGE_SUFFIXES, StoredImage
from jaxir.vision.data.rows import CaptionedImage


def _samples(archive: tarfile.TarFile) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """Consecutive members whose names are equal up to the first dot of the last part."""
    key = ""
    members: dict[str, tarfile.TarInfo] = {}
    for member in archive:
        if not member.isreg() or member.issparse():
            continue
        path = PurePosixPath(member.name)
        stem, _, suffix = path.name.partition(".")
        if (member_key := str(path.parent / stem)) != key:
            if members:
                yield key, members
            key, members = member_key, {}
        members[f".{suffix.lower()}"] = member
    if members:
        yield key, members


def _check_end(archive: tarfile.TarFile, file: Path) -> None:
    """Check that the archive ends in a block of zeros: `tarfile` takes damage for the end too."""
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
) -> CaptionRecord | None:
    """Captions of a sample: of KEY.json if it has any (it may hold other facts), else KEY.txt."""
    json: Any = {}
    if ".json" in members:
        json = parse_json(_member_text(archive, members[".json"], where), where)
        if not isinstance(json, dict):
            raise UserError(f"{where}: the JSON is a {type(json).__name__}, not an object")
    if ".txt" in members and not {"captions", "caption"} & json.keys():
        text = _member_text(archive, members[".txt"], where)
        json = {**json, "caption": text}
    return parse_captions(json, source, where) if json else None


def read_webdataset(
    source: ImageSource, directory: Path, checks: InputChecks
) -> Iterator[CaptionedImage]:
    """Tars of samples KEY.jpg (or .png, .webp), KEY.json or KEY.txt; images stay in the tars.

    Raises:
        UserError: names tar and key.
    """
    for file in find_files(directory, source.images, ".tar"):
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
    checks: InputChecks,
) -> Iterator[CaptionedImage]:
    where = f"{file}: {key}"
    image = next((members[suffix] for suffix in IMAGE_SUFFIXES if suffix in members), None)
    try:
        record = _sample_captions(archive, members, source, where)
    except UserError as error:
        checks.reject("unreadable_captions", str(error))
        return
    if image and record:
        stored = StoredImage(file, image.offset_data, image.size)
        yield CaptionedImage(key, where, stored, record.captions, record.group)
    elif image:
        checks.reject("image_without_captions", f"{where}: no captions for {image.name}")
    elif record:
        checks.reject("captions_without_image", f"{where}: captions, but no image")
