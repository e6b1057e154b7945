"""Families of emoji: variants of an emoji, and emoji with identical drawings.

    variants   skin tones, genders and directions of an emoji
    twins      emoji whose drawings in some style are identical, to the byte; where they are so in
               all styles (a dog and its face, the flags of France and Clipperton Island), the twins
               are also a group: the names of each are right for the images of the others

A family is a connected component of the graph of variants and twins.
"""

import hashlib
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from jaxir.config import EmojiConfig
from jaxir.data.checks import InputChecks
from jaxir.data.hashing import hash_words
from jaxir.errors import UserError
from jaxir.vision.data.images import StoredImage

MAX_MEMBERS = 100_000  # of a tar

_IGNORED = {
    *("1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"),  # skin tones
    *("2640", "2642"),  # female, male
    *("27a1", "2194", "2195"),  # to the right, from side to side, up and down
    *("200d", "fe0f"),  # joiner, "as a picture"
}
# one code for emoji that differ in gender alone
_NEUTRAL = {
    **dict.fromkeys(("1f468", "1f469"), "1f9d1"),  # man, woman: person
    **dict.fromkeys(("1f466", "1f467"), "1f9d2"),  # boy, girl: child
    **dict.fromkeys(("1f474", "1f475"), "1f9d3"),  # old man, old woman: older person
    **dict.fromkeys(("1f934", "1f478"), "1fac5"),  # prince, princess: person with crown
    **dict.fromkeys(("1f930", "1fac3"), "1fac4"),  # pregnant woman, man: person
    **dict.fromkeys(("1f46b", "1f46c", "1f46d"), "1f9d1-1f91d-1f9d1"),  # holding hands
    **dict.fromkeys(("1f385", "1f936"), "1f9d1-1f384"),  # Santa Claus, Mrs. Claus: Mx Claus
    "1f57a": "1f483",  # man dancing: woman dancing
}


def base_emoji(code: str) -> str:
    """Code points of an emoji without skin tone, gender and direction, e.g. "1f9d1-1f33e"."""
    points = [point for point in code.split("-") if point not in _IGNORED]
    return "-".join(_NEUTRAL.get(point, point) for point in points) or code


@dataclass(frozen=True)
class Drawing:
    """An emoji in a style: the stored image and a digest of its bytes."""

    stored: StoredImage
    digest: bytes


@dataclass(frozen=True)
class EmojiSet:
    """All drawings of a folder, by style and code points."""

    drawings: Mapping[str, Mapping[str, Drawing]]

    def groups(self) -> dict[str, str]:
        """Group of each emoji: the first of those with the same drawings in all styles."""
        first: dict[tuple, str] = {}
        return {
            code: first.setdefault(self._digests(code), code)
            for code in sorted({code for style in self.drawings.values() for code in style})
        }

    def _digests(self, code: str) -> tuple:
        """Digests of an emoji's drawings; its code if a style lacks it, so that it has no twins."""
        digests = [style[code].digest if code in style else b"" for style in self.drawings.values()]
        return tuple(digests) if all(digests) else (code,)

    def families(self) -> dict[str, str]:
        """Family of each emoji, named by the smallest base of its members."""
        # edges lead from an emoji to its base, and to what it looks like in each style
        edges = [(base_emoji(code), code) for style in self.drawings.values() for code in style]
        for name, style in self.drawings.items():
            edges += [(f"{name}:{drawing.digest.hex()}", code) for code, drawing in style.items()]
        root = _component_roots(edges)
        codes = {code for style in self.drawings.values() for code in style}
        smallest: dict[str, str] = {}
        for code in codes:
            base = base_emoji(code)
            smallest[root[code]] = min(base, smallest.get(root[code], base))
        return {code: smallest[root[code]] for code in codes}


def _component_roots(edges: Iterable[tuple[str, str]]) -> dict[str, str]:
    """A representative of each node's connected component (union-find)."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = name = parent[parent[name]]
        return name

    for start, end in edges:
        parent[root(start)] = root(end)
    return {name: root(name) for name in list(parent)}


def read_drawings(folder: Path, checks: InputChecks) -> EmojiSet:
    """Location and digest of every drawing; the images stay in their tars.

    Args:
        folder: of the tars, one for each style.
        checks: policy for drawings that are empty, too large or duplicates.

    Raises:
        UserError: the folder has no tar, or one is damaged.
    """
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise UserError(f"{folder}: no tar of drawings; mend `images` of the source")
    return EmojiSet({tar.stem: dict(_read_tar(tar, checks)) for tar in tars})


def _read_tar(file: Path, checks: InputChecks) -> Iterator[tuple[str, Drawing]]:
    seen: set[str] = set()
    try:
        with tarfile.open(file, "r:") as archive:
            for number, member in enumerate(archive):
                if number == MAX_MEMBERS:
                    raise UserError(f"{file}: over {MAX_MEMBERS:,} members; is it of emoji?")
                path = PurePosixPath(member.name)
                if not member.isreg() or member.issparse() or path.suffix != ".png":
                    continue
                where = f"{file}: {member.name}"
                if path.stem in seen:
                    checks.reject("duplicate_image", f"{where}: a second drawing of that name")
                    continue
                seen.add(path.stem)
                stored = StoredImage(file, member.offset_data, member.size)
                try:
                    image = stored.read(where)
                except UserError as error:
                    checks.reject("bad_image", str(error))
                    continue
                yield path.stem, Drawing(stored, hashlib.blake2b(image).digest())
    except tarfile.TarError as error:
        raise UserError(f"{file}: not a whole, uncompressed tar ({error})") from None


def held_out_emoji(emoji: EmojiSet, options: EmojiConfig) -> frozenset[str]:
    """Codes of the emoji held out of training: whole families, by a hash of each and the seed."""
    threshold = options.held_out * 2.0**64
    return frozenset(
        code
        for code, family in emoji.families().items()
        if hash_words(options.seed, family) < threshold
    )
