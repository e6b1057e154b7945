"""A captioned image set: an aligned collection of captions, and the images that they caption.

A parallel group is an image with one caption in each of its languages, which stands on both sides:
so `jaxir.data.hybrid` gives a batch of images with captions of one language (monolingual), with
captions in two languages of each image (cross_lingual) or with captions of different languages
(multilingual; a row's query language counts). The k-th captions of an image in all languages are
one group; further ones are further groups of the same image. A cluster is what is depicted: copies
of an image, in other styles for one, have a common `group` and are never each other's negatives.

Dimension key: G parallel groups, N languages, T distinct texts, I images, K chosen groups.
"""

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from PIL import Image

from jaxir.config import CaptionsConfig, ImageSource
from jaxir.data.collection import Collection, held_out_groups, take_groups
from jaxir.errors import UserError
from jaxir.vision.data.caption_checks import Kept, checked_captions, that_decode
from jaxir.vision.data.captioned import CaptionedImage, Checks, DecodedImages, ImageContent, decoded
from jaxir.vision.data.images import Color
from jaxir.vision.data.sources import READERS

# Another seed for another run must not move images between training and validation.
SPLIT_SEED = 0


@dataclass(frozen=True)
class CaptionSet:
    """Captions and images; query and passage of a group in a language are the same caption."""

    collection: Collection
    image: Int[np.ndarray, "G"]  # index of a group's image
    contents: Sequence[ImageContent]  # I
    places: Sequence[str]  # I, for messages
    names: Sequence[str]  # I, distinct: name within the source, after "source:"
    source_of: Sequence[str]  # I: name of the `ImageSource` that it was read from
    depicted: Sequence[str]  # what the clusters are of: a group's or an image's name
    decoded: DecodedImages

    def open(self, number: int, background: Color) -> Image.Image:
        """An image in RGB.

        Raises:
            UserError: names the place of one that cannot be decoded.
        """
        return self.decoded.get(
            (number, background),
            lambda: decoded(self.contents[number], self.places[number], background),
        )

    def take(self, groups: Int[np.ndarray, "K"]) -> "CaptionSet":
        """Some groups, in the given order; images, texts and clusters keep their numbers."""
        taken = take_groups(self.collection, groups)
        return replace(self, collection=taken, image=self.image[groups])


class Parts(NamedTuple):
    """A captioned image set, split."""

    training: CaptionSet
    held_out: CaptionSet  # other things, in the sources of the training
    held_out_sources: CaptionSet  # all of `held_out_sources`, of things in training and others


@dataclass
class _Reading:
    """What has been read; every number of a column is the place of a string in a dict."""

    texts: dict[str, int] = field(default_factory=dict)
    languages: dict[str, int] = field(default_factory=dict)
    depicted: dict[str, int] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)  # to the image's index
    contents: list[ImageContent] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    source_of: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    groups: tuple[array, ...] = field(default_factory=lambda: tuple(array("i") for _ in range(3)))
    captions: tuple[array, ...] = field(default_factory=lambda: tuple(array("i") for _ in range(3)))


def read_captions(config: CaptionsConfig) -> CaptionSet:
    """Read the images and captions of every source.

    Raises:
        UserError: names file and line, or tar and key, and how to mend it.
    """
    if not config.sources:
        raise UserError("the captions have no sources: name at least one")
    reading, checks = _Reading(), Checks(config.skip_bad)
    for source in config.sources:
        before = len(reading.contents)
        for image, captions in _read_source(reading, source, config, checks):
            _add(reading, image, captions, source, config.captions_per_language)
        if len(reading.contents) == before:
            left_out = f" (left out: {dict(checks.counts)})" if checks.counts else ""
            raise UserError(f"source {source_name(source)}: no images with captions{left_out}")
    return _collect(reading, checks.counts, config.decoded_mib << 20)


def source_name(source: ImageSource) -> str:
    """What reports and messages call it."""
    split = "" if source.reader in ("folder", "webdataset") else f"#{source.split}"
    return source.name or f"{source.images or source.reader}{split}"


def _read_source(
    reading: _Reading, source: ImageSource, config: CaptionsConfig, checks: Checks
) -> list[Kept]:
    if source.reader not in READERS:
        raise UserError(f"reader = {source.reader!r}: must be one of {', '.join(READERS)}")
    found: dict[str, Kept] = {}
    for image in READERS[source.reader](source, Path(config.directory), checks):
        if config.limit and len(found) == config.limit:
            break
        name = f"{source_name(source)}:{image.name}"
        captions = checked_captions(image, source, checks)
        if name in found or name in reading.names:
            other = found[name][0].where if name in found else reading.places[reading.names[name]]
            message = f"{image.where}: the name stands at {other} too; change one of them"
            checks.bad("duplicate_image", message)
        elif captions:
            found[name] = image, captions
    if not config.decode_first:
        return list(found.values())
    return that_decode(list(found.values()), config, checks)


def _add(
    reading: _Reading,
    image: CaptionedImage,
    captions: dict[str, list[str]],
    source: ImageSource,
    limit: int,
) -> None:
    name, number = f"{source_name(source)}:{image.name}", len(reading.contents)
    # an image without a group is alone; no name of a file begins like that of a group
    what = f"group:{image.group}" if image.group else f"image:{name}"
    cluster = reading.depicted.setdefault(what, len(reading.depicted))
    part = reading.sources.setdefault(image.source or source_name(source), len(reading.sources))
    reading.names[name] = number
    reading.contents.append(image.image)
    reading.places.append(image.where)
    reading.source_of.append(source_name(source))
    most = max(map(len, captions.values()))
    for place in range(min(most, limit) if limit else most):
        group = len(reading.ids)
        reading.ids.append(f"{name}#{place + 1}" if place else name)
        for column, value in zip(reading.groups, (number, cluster, part)):
            column.append(value)
        for language, texts in captions.items():
            if place < len(texts):
                text = reading.texts.setdefault(texts[place], len(reading.texts))
                code = reading.languages.setdefault(language, len(reading.languages))
                for column, value in zip(reading.captions, (group, code, text)):
                    column.append(value)


def _collect(reading: _Reading, left_out: Counter[str], decoded_bytes: int) -> CaptionSet:
    image, cluster, source = (np.array(column, np.int32) for column in reading.groups)
    group, code, text = (np.array(column, np.int32) for column in reading.captions)
    languages = tuple(sorted(reading.languages))
    order = np.array([languages.index(language) for language in reading.languages], np.int32)
    table = np.full((len(image), len(languages)), -1, np.int32)
    table[group, order[code]] = text
    text_cluster = np.full(len(reading.texts), -1, np.int32)
    text_cluster[text] = cluster[group]
    collection = Collection(
        languages=languages,
        texts=list(reading.texts),
        ids=reading.ids,
        query=table,
        passage=table,
        cluster=cluster,
        text_cluster=text_cluster,
        source=source,
        source_names=tuple(reading.sources),
        hard_negative_offsets=np.zeros(table.size + 1, np.int64),
        hard_negatives=np.empty(0, np.int32),
        of_images=True,
    )
    report = _sizes(collection, image) | {"left_out": dict(sorted(left_out.items()))}
    return CaptionSet(
        replace(collection, report=report),
        image,
        reading.contents,
        reading.places,
        list(reading.names),
        reading.source_of,
        list(reading.depicted),
        DecodedImages(decoded_bytes),
    )


def _sizes(collection: Collection, image: Int[np.ndarray, "G"]) -> dict[str, Any]:
    first = np.unique(image, return_index=True)[1]
    of_source = np.bincount(collection.source[first], minlength=len(collection.source_names))
    captions = (collection.query >= 0).sum(axis=0)
    return {
        "images": len(first),
        "images_of_source": dict(zip(collection.source_names, of_source.tolist(), strict=True)),
        "depicted": len(np.unique(collection.cluster)),
        "groups": len(collection.ids),
        "texts": len(collection.texts),
        "captions": dict(zip(collection.languages, captions.tolist(), strict=True)),
    }


def split_captions(captions: CaptionSet, config: CaptionsConfig) -> Parts:
    """Split off what is held out: whole sources, then things with all of their images.

    What is depicted is held out if a hash of its name lies under `config.held_out`: it stays on its
    side when images, styles or other things come or go, and whatever the seed of a run.

    Raises:
        UserError: there is no such source, or everything or nothing would be held out.
    """
    collection = captions.collection
    names = collection.source_names
    for name in config.held_out_sources:
        if name not in names:
            raise UserError(f"held_out_sources: no {name!r}; there are {', '.join(names)}")
    wanted: Bool[np.ndarray, G] = np.isin(
        collection.source, [names.index(name) for name in config.held_out_sources]
    )
    rest = np.flatnonzero(~wanted)
    chosen = np.zeros(len(rest), bool)
    if config.held_out:
        cluster = collection.cluster[rest]
        things = [captions.depicted[number] for number in cluster.tolist()]
        chosen = held_out_groups(
            things, cluster, config.held_out, config.held_out_limit, SPLIT_SEED
        )
    return Parts(
        captions.take(rest[~chosen]),
        captions.take(rest[chosen]),
        captions.take(np.flatnonzero(wanted)),
    )
