"""A captioned image set: an aligned collection of captions, and the images that they caption.

A parallel group is an image with one caption in each of its languages, which is both query and
passage: so `jaxir.data.hybrid` gives a batch of images with captions of one language (monolingual),
with captions in two languages of each image (cross_lingual) or with captions of different languages
(multilingual; a row's query language counts). The k-th captions of an image in all languages are
one group; further ones are further groups of the same image. A cluster is what is depicted: copies
of an image, in other styles for one, have a common `group` and are never each other's negatives.

Dimension key: G parallel groups, N languages, T distinct texts, I images, C clusters,
K chosen groups.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from PIL import Image

from jaxir.config import CaptionsConfig, ImageSource
from jaxir.data.checks import InputChecks, find_reader
from jaxir.data.collection import Collection, CollectionBuilder, take_groups
from jaxir.data.held_out import held_out_groups
from jaxir.errors import UserError
from jaxir.vision.data.images import Color, DecodedImages, ImageContent, decode_image
from jaxir.vision.data.readers import READERS
from jaxir.vision.data.rows import CaptionedImage, CheckedRow, check_captions, drop_undecodable

# Another seed for another run must not move images between training and validation.
SPLIT_SEED = 0


@dataclass(frozen=True)
class CaptionSet:
    """Captions and images; query and passage of a group in a language are the same caption."""

    collection: Collection
    image: Int[np.ndarray, "G"]  # index of a group's image
    contents: Sequence[ImageContent]  # I
    locations: Sequence[str]  # I, for messages
    names: Sequence[str]  # I, distinct: name within the source, after "source:"
    source_of: Sequence[str]  # I: name of the `ImageSource` that it was read from
    cluster_names: Sequence[str]  # C: what is depicted, a group's or an image's name
    decoded: DecodedImages

    def open(self, index: int, background: Color) -> Image.Image:
        """An image in RGB.

        Raises:
            UserError: names the location of one that cannot be decoded.
        """
        return self.decoded.get(
            (index, background),
            lambda: decode_image(self.contents[index], self.locations[index], background),
        )

    def take(self, groups: Int[np.ndarray, "K"]) -> "CaptionSet":
        """The set of these groups, in this order; image, text and cluster indices stay the same."""
        taken = take_groups(self.collection, groups)
        return replace(self, collection=taken, image=self.image[groups])


class CaptionSplits(NamedTuple):
    """A captioned image set, split."""

    training: CaptionSet
    held_out: CaptionSet  # other clusters, in the sources of the training
    held_out_sources: CaptionSet  # all of `held_out_sources`, in clusters of training and others


@dataclass
class _ImageTable:
    """Images read so far, and the image and cluster of each parallel group."""

    names: dict[str, int] = field(default_factory=dict)  # to the image's index
    clusters: dict[str, int] = field(default_factory=dict)  # by name
    contents: list[ImageContent] = field(default_factory=list)
    locations: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    group_image: array = field(default_factory=lambda: array("i"))
    group_cluster: array = field(default_factory=lambda: array("i"))


def read_captions(config: CaptionsConfig) -> CaptionSet:
    """Read the images and captions of every source.

    Raises:
        UserError: names file and line, or tar and key, and how to mend it.
    """
    if not config.sources:
        raise UserError("the captions have no sources: name at least one")
    images, builder, checks = _ImageTable(), CollectionBuilder(), InputChecks(config.skip_bad)
    for source in config.sources:
        rows = _read_source(images, source, config, checks)
        if not rows:
            left_out = f" (left out: {dict(checks.counts)})" if checks.counts else ""
            raise UserError(f"source {source_name(source)}: no images with captions{left_out}")
        for image, captions in rows:
            _add(images, builder, image, captions, source, config.captions_per_language)
    group_image = np.array(images.group_image, np.int32)
    collection = builder.build(np.array(images.group_cluster, np.int32))
    report = _sizes(collection, group_image) | {"left_out": dict(sorted(checks.counts.items()))}
    return CaptionSet(
        replace(collection, report=report, of_images=True),
        group_image,
        images.contents,
        images.locations,
        list(images.names),
        images.sources,
        list(images.clusters),
        DecodedImages(config.decoded_mib << 20),
    )


def source_name(source: ImageSource) -> str:
    """Name of a source in reports and messages."""
    split = "" if source.reader in ("folder", "webdataset") else f"#{source.split}"
    return source.name or f"{source.images or source.reader}{split}"


def _read_source(
    images: _ImageTable, source: ImageSource, config: CaptionsConfig, checks: InputChecks
) -> list[CheckedRow]:
    read = find_reader(READERS, source.reader)
    rows: dict[str, CheckedRow] = {}
    for image in read(source, Path(config.directory), checks):
        if config.limit and len(rows) == config.limit:
            break
        name = f"{source_name(source)}:{image.name}"
        captions = check_captions(image, source, checks)
        if name in rows or name in images.names:
            other = rows[name][0].where if name in rows else images.locations[images.names[name]]
            message = f"{image.where}: the name stands at {other} too; change one of them"
            checks.reject("duplicate_image", message)
        elif captions:
            rows[name] = image, captions
    if not config.decode_first:
        return list(rows.values())
    return drop_undecodable(list(rows.values()), config, checks)


def _add(
    images: _ImageTable,
    builder: CollectionBuilder,
    image: CaptionedImage,
    captions: dict[str, list[str]],
    source: ImageSource,
    limit: int,
) -> None:
    """Add an image, and a parallel group of its k-th captions for each k, up to a limit if any."""
    name, index = f"{source_name(source)}:{image.name}", len(images.contents)
    # an image without a group is a cluster of its own; the prefixes keep the two kinds apart
    cluster_name = f"group:{image.group}" if image.group else f"image:{name}"
    cluster = images.clusters.setdefault(cluster_name, len(images.clusters))
    images.names[name] = index
    images.contents.append(image.image)
    images.locations.append(image.where)
    images.sources.append(source_name(source))
    source_index = builder.add_source(image.source or source_name(source))
    most = max(map(len, captions.values()))
    for k in range(min(most, limit) if limit else most):
        group = builder.add_group(f"{name}#{k + 1}" if k else name, source_index)
        images.group_image.append(index)
        images.group_cluster.append(cluster)
        for language, texts in captions.items():
            if k < len(texts):
                builder.add_row(group, (texts[k], texts[k]), (language, language))


def _sizes(collection: Collection, image: Int[np.ndarray, "G"]) -> dict[str, Any]:
    first = np.unique(image, return_index=True)[1]
    source_images = np.bincount(collection.source[first], minlength=len(collection.source_names))
    captions = (collection.query >= 0).sum(axis=0)
    return {
        "images": len(first),
        "images_of_source": dict(zip(collection.source_names, source_images.tolist(), strict=True)),
        "depicted": len(np.unique(collection.cluster)),
        "groups": len(collection.ids),
        "texts": len(collection.texts),
        "captions": dict(zip(collection.languages, captions.tolist(), strict=True)),
    }


def split_captions(captions: CaptionSet, config: CaptionsConfig) -> CaptionSplits:
    """Split off what is held out: whole sources, then clusters with all of their images.

    A cluster is held out if a hash of its name lies under `config.held_out`: it stays on its side
    when images, styles or other clusters come or go, and whatever the seed of a run.

    Raises:
        UserError: there is no such source, or everything or nothing would be held out.
    """
    collection = captions.collection
    names = collection.source_names
    for name in config.held_out_sources:
        if name not in names:
            raise UserError(f"held_out_sources: no {name!r}; there are {', '.join(names)}")
    in_held_out_source: Bool[np.ndarray, G] = np.isin(
        collection.source, [names.index(name) for name in config.held_out_sources]
    )
    rest = np.flatnonzero(~in_held_out_source)
    held_out = np.zeros(len(rest), bool)
    if config.held_out:
        cluster = collection.cluster[rest]
        ids = [captions.cluster_names[index] for index in cluster.tolist()]
        held_out = held_out_groups(ids, cluster, config.held_out, config.held_out_limit, SPLIT_SEED)
    return CaptionSplits(
        captions.take(rest[~held_out]),
        captions.take(rest[held_out]),
        captions.take(np.flatnonzero(in_held_out_source)),
    )
