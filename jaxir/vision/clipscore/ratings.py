"""Human ratings of captions: the judgements of Flickr8k, in the format of their release.

ExpertAnnotations.txt has five columns between tabs: image, caption (`IMAGE#NUMBER` of
Flickr8k.token.txt), and the ratings of three experts, from 1 (does not describe the image) to 4.
CrowdFlowerAnnotations.txt: image, caption, share of yes, and the numbers of yes and of no.

The protocols are those of CLIPScore (arXiv 2104.08718, section 4.1 and appendix A; its repository's
flickr8k_example), which follow SPICE's:

* Expert: a pair whose caption equals, word for word, one of the image's five captions is left out;
  each of the three ratings of the others is a sample. Kendall's tau-c.
* CrowdFlower: no pair is left out; a caption that is rated for the image that it was written for is
  removed from that image's references. The share of yes is the rating. Kendall's tau-b.

References are the captions that were written for the image.

Source of the ratings: Hodosh, Young and Hockenmaier, Framing Image Description as a Ranking Task,
JAIR 47 (2013).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from jaxir.data.files import read_lines
from jaxir.errors import UserError
from jaxir.vision.clipscore.candidates import CandidateCaption, InputErrors

VARIANTS = {"expert": "c", "crowdflower": "b"}  # of Kendall's tau, in the protocols


@dataclass(frozen=True, slots=True)
class Rating:
    """Human ratings of a caption for an image, which need not be the one it was written for."""

    image: str
    caption: str  # its id
    values: tuple[float, ...]
    where: str


@dataclass(frozen=True)
class Ratings:
    """Ratings of a file."""

    kind: str  # of VARIANTS
    rows: list[Rating]


@dataclass
class RatedPairs:
    """Rated captions, each with the image that it was rated for and that image's references."""

    pairs: list[CandidateCaption] = field(default_factory=list)
    self_pairs: int = 0  # left out, since the caption was written for the image


def read_ratings(file: Path, errors: InputErrors) -> Ratings:
    """Read ExpertAnnotations.txt or CrowdFlowerAnnotations.txt; the first row tells which it is.

    Raises:
        UserError: there is no such file, or its first row is of neither kind.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    kind, rows = "", []
    for where, line in read_lines(file):
        if not line.strip():
            continue
        row_kind, values = _values(line.strip().split("\t"))
        kind = kind or row_kind
        if not kind:
            raise UserError(
                f"{where}: must be image, caption id and three ratings from 1 to 4, or image, "
                "caption id, share of yes, and the numbers of yes and of no, separated by tabs"
            )
        if row_kind != kind:
            errors.messages.append(f"{where}: not a rating of {kind} like the rows before it")
            continue
        image, caption = line.strip().split("\t")[:2]
        rows.append(Rating(image, caption, values, where))
    if not rows:
        raise UserError(f"{file}: holds no ratings")
    return Ratings(kind, rows)


def _values(columns: Sequence[str]) -> tuple[str, tuple[float, ...]]:
    """Kind and ratings of a row; "" if it is of no kind."""
    if len(columns) != 5 or not all(columns[:2]):
        return "", ()
    try:
        first, second, third = (float(column) for column in columns[2:])
    except ValueError:
        return "", ()
    if all(rating in (1, 2, 3, 4) for rating in (first, second, third)):
        return "expert", (first, second, third)
    total = second + third
    # the share has to agree with the two counts, up to the digits that the file rounds it to
    if second >= 0 and third >= 0 and 0 < total < 1e6 and abs(first - second / total) < 1e-5:
        return "crowdflower", (first,)
    return "", ()


def rated_pairs(
    ratings: Ratings, captions: Sequence[CandidateCaption], errors: InputErrors
) -> RatedPairs:
    """The pairs that the protocol of the ratings counts; unknown captions are added to `errors`."""
    by_id = {caption.id: caption for caption in captions}
    references: dict[str, list[str]] = {}
    for caption in captions:
        references.setdefault(_stem(caption.image), []).append(caption.text)
    known = []
    for row in ratings.rows:
        if row.caption in by_id:
            known.append((row, by_id[row.caption]))
        else:
            errors.messages.append(f"{row.where}: no caption has the id {row.caption!r}")
    if ratings.kind == "crowdflower":
        for row, caption in known:
            of_image = references.get(_stem(row.image), [])
            if caption.text in of_image:
                of_image.remove(caption.text)
    result = RatedPairs()
    for row, caption in known:
        of_image = references.get(_stem(row.image), [])
        if ratings.kind == "expert" and caption.text in of_image:
            result.self_pairs += 1
            continue
        result.pairs.append(
            replace(
                caption,
                image=row.image,
                where=row.where,
                references=tuple(of_image),
                ratings=row.values,
            )
        )
    return result


def _stem(image: str) -> str:
    """Name of an image up to its first dot: Flickr8k spells the rest in two ways."""
    return image.partition(".")[0]
