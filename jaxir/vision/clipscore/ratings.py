"""What people said of captions: the judgements of Flickr8k, in the form that they are given out in.

ExpertAnnotations.txt has five columns between tabs: image, caption (`IMAGE#NUMBER` of
Flickr8k.token.txt), and the ratings of three experts, from 1 (does not describe the image) to 4.
CrowdFlowerAnnotations.txt: image, caption, share of yes, and how many said yes and no.

The protocols are those of CLIPScore (arXiv 2104.08718, section 4.1 and appendix A; its repository's
flickr8k_example), which follow SPICE's:

* Expert: a pair whose caption is word for word one of the image's own five is left out, and each of
  the three ratings of the others is a sample of its own. Kendall's tau-c.
* CrowdFlower: no pair is left out; a caption that is judged for its own image is taken out of that
  image's references. The share of yes is the rating. Kendall's tau-b.

References are the image's own captions.

Source of the ratings: Hodosh, Young and Hockenmaier, Framing Image Description as a Ranking Task,
JAIR 47 (2013).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jaxir.data.files import lines_of
from jaxir.errors import UserError
from jaxir.vision.clipscore.candidates import Caption, Mistakes

VARIANTS = {"expert": "c", "crowdflower": "b"}  # of Kendall's tau, in the protocols


@dataclass(frozen=True, slots=True)
class Rating:
    """What people said of a caption for an image, which need not be its own."""

    image: str
    caption: str  # its id
    values: tuple[float, ...]
    where: str


@dataclass(frozen=True)
class Ratings:
    """Those of a file."""

    kind: str  # of VARIANTS
    rows: list[Rating]


@dataclass(frozen=True, slots=True)
class RatedPair:
    """An image and a caption, with the references that the caption is compared to."""

    image: str
    text: str
    language: str
    id: str
    references: tuple[str, ...]
    values: tuple[float, ...]
    where: str


@dataclass
class RatedPairs:
    """The pairs of a protocol."""

    pairs: list[RatedPair] = field(default_factory=list)
    self_pairs: int = 0  # left out, since the caption is one of the image's own


def read_ratings(file: Path, mistakes: Mistakes) -> Ratings:
    """The ratings of ExpertAnnotations.txt or CrowdFlowerAnnotations.txt; the rows tell which.

    Raises:
        UserError: there is no such file, or its first row is neither's.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    kind, rows = "", []
    for where, line in lines_of(file):
        if not line.strip():
            continue
        found, values = _values(line.strip().split("\t"))
        kind = kind or found
        if not kind:
            raise UserError(
                f"{where}: must be image, caption id and three ratings from 1 to 4, or image, "
                "caption id, share of yes, and how many said yes and no, with tabs between"
            )
        if found != kind:
            mistakes.found.append(f"{where}: not a rating of {kind} as the rows before it are")
            continue
        image, caption = line.strip().split("\t")[:2]
        rows.append(Rating(image, caption, values, where))
    if not rows:
        raise UserError(f"{file}: holds no ratings")
    return Ratings(kind, rows)


def _values(columns: Sequence[str]) -> tuple[str, tuple[float, ...]]:
    """The kind of a row and its ratings; "" where it is of none."""
    if len(columns) != 5 or not all(columns[:2]):
        return "", ()
    try:
        first, second, third = (float(column) for column in columns[2:])
    except ValueError:
        return "", ()
    if all(one in (1, 2, 3, 4) for one in (first, second, third)):
        return "expert", (first, second, third)
    total = second + third
    # a share that its counts do not give is no share
    if second >= 0 and third >= 0 and 0 < total < 1e6 and abs(first - second / total) < 1e-5:
        return "crowdflower", (first,)
    return "", ()


def rated_pairs(ratings: Ratings, captions: Sequence[Caption], mistakes: Mistakes) -> RatedPairs:
    """The pairs that count in the ratings' protocol; those of unknown captions become mistakes."""
    by_id = {caption.id: caption for caption in captions}
    own: dict[str, list[str]] = {}
    for caption in captions:
        own.setdefault(_stem(caption.image), []).append(caption.text)
    known = []
    for row in ratings.rows:
        if row.caption in by_id:
            known.append((row, by_id[row.caption]))
        else:
            mistakes.found.append(f"{row.where}: no caption has the id {row.caption!r}")
    if ratings.kind == "crowdflower":
        for row, caption in known:
            references = own.get(_stem(row.image), [])
            if caption.text in references:
                references.remove(caption.text)
    result = RatedPairs()
    for row, caption in known:
        references = own.get(_stem(row.image), [])
        if ratings.kind == "expert" and caption.text in references:
            result.self_pairs += 1
            continue
        shared = (caption.text, caption.language, caption.id, tuple(references), row.values)
        result.pairs.append(RatedPair(row.image, *shared, row.where))
    return result


def _stem(image: str) -> str:
    """Flickr8k names one image in two ways, which differ in what follows the first dot."""
    return image.partition(".")[0]
