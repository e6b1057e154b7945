"""Which emoji belong together: variants of one, and those that are drawn alike.

    variants   skin tones, genders and directions of one emoji
    twins      emoji that some style draws alike, to the byte; where all styles do so (a dog and its
               face, the flags of France and Clipperton Island), they are also one group: their
               names are right for the same images

A family is all that is connected by either, in however many steps.
"""

import hashlib
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from jaxir.config import EmojiConfig
from jaxir.data.cldr import stateless_hash
from jaxir.errors import UserError
from jaxir.vision.data.captioned import Checks, StoredImage

MAX_MEMBERS = 100_000  # of a tar

_IGNORED = {
    *("1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"),  # skin tones
    *("2640", "2642"),  # female, male
    *("27a1", "2194", "2195"),  # to the right, from side to side, up and down
    *("200d", "fe0f"),  # joiner, "as a picture"
}
# one code point for all that differ in gender alone
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


def base_of(code: str) -> str:
    """Code points of an emoji without skin tone, gender and direction, e.g. "1f9d1-1f33e"."""
    points = [point for point in code.split("-") if point not in _IGNORED]
    return "-".join(_NEUTRAL.get(point, point) for point in points) or code


@dataclass(frozen=True)
class Drawing:
    """An emoji in one style: where it is stored and a digest of its bytes."""

    stored: StoredImage
    digest: bytes


@dataclass(frozen=True)
class EmojiSet:
    """All drawings of a folder, by style and code points, and what belongs together."""

    drawings: Mapping[str, Mapping[str, Drawing]]

    def twins(self) -> dict[str, str]:
        """The first of the emoji that all styles draw as this one, which is its group."""
        first: dict[tuple, str] = {}
        return {
            code: first.setdefault(self._look(code), code)
            for code in sorted({code for style in self.drawings.values() for code in style})
        }

    def _look(self, code: str) -> tuple:
        found = [style[code].digest if code in style else b"" for style in self.drawings.values()]
        return tuple(found) if all(found) else (code,)

    def families(self) -> dict[str, str]:
        """The smallest base of the emoji that are variants or twins, in however many steps."""
        edges = [(base_of(code), code) for style in self.drawings.values() for code in style]
        for name, style in self.drawings.items():
            edges += [(f"{name}:{one.digest.hex()}", code) for code, one in style.items()]
        root = _joined(edges)
        codes = {code for style in self.drawings.values() for code in style}
        smallest: dict[str, str] = {}
        for code in codes:
            base = base_of(code)
            smallest[root[code]] = min(base, smallest.get(root[code], base))
        return {code: smallest[root[code]] for code in codes}


def _joined(edges: Iterable[tuple[str, str]]) -> dict[str, str]:
    """One representative of all that the edges connect."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = name = parent[parent[name]]
        return name

    for one, other in edges:
        parent[root(one)] = root(other)
    return {name: root(name) for name in list(parent)}


def open_folder(folder: Path, checks: Checks) -> EmojiSet:
    """Find every drawing; the images stay in their tars.

    Args:
        folder: where the tars are.
        checks: what happens to drawings that are empty, too large or there twice.

    Raises:
        UserError: no tar is there, or one is damaged.
    """
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise UserError(f"{folder}: no tar of drawings; mend `images` of the source")
    return EmojiSet({tar.stem: dict(_read_tar(tar, checks)) for tar in tars})


def _read_tar(file: Path, checks: Checks) -> Iterator[tuple[str, Drawing]]:
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
                    checks.bad("duplicate_image", f"{where}: a drawing of that name stands before")
                    continue
                seen.add(path.stem)
                stored = StoredImage(file, member.offset_data, member.size)
                try:
                    image = stored.read(where)
                except UserError as error:
                    checks.bad("bad_image", str(error))
                    continue
                yield path.stem, Drawing(stored, hashlib.blake2b(image).digest())
    except tarfile.TarError as error:
        raise UserError(f"{file}: not a whole, uncompressed tar ({error})") from None


def held_out(emoji: EmojiSet, options: EmojiConfig) -> frozenset[str]:
    """Codes of the emoji kept from training: whole families, by a hash of each and the seed."""
    most = options.held_out * 2.0**64
    return frozenset(
        code
        for code, family in emoji.families().items()
        if stateless_hash(options.seed, family) < most
    )
