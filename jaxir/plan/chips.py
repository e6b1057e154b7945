"""TPU chips and slices: their peaks, and their names in the cloud and for the compiler."""

import math
import re
from dataclasses import dataclass

from jaxir.errors import UserError

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """A chip's peaks, from its vendor's specification; HBM is what a program may use."""

    hbm: float  # bytes
    flops: float  # per second, bf16
    hbm_bandwidth: float  # bytes per second
    link_bandwidth: float  # bytes per second, to all neighbours together
    axes: int  # of its topologies
    cores: int  # that a slice's name counts for each chip


CHIPS = {
    "v4": Chip(30.75 * GIB, 275e12, 1228e9, 300e9, 3, 2),
    "v5p": Chip(95.74 * GIB, 459e12, 2765e9, 600e9, 3, 2),
    "v5e": Chip(15.75 * GIB, 197e12, 819e9, 200e9, 2, 1),
    "v6e": Chip(31.25 * GIB, 918e12, 1640e9, 448e9, 2, 1),
}
# Dense bf16 FLOPs per second by JAX's name of a device, from the vendors' specifications.
PEAKS = {
    "TPU v4": CHIPS["v4"].flops,
    "TPU v5p": CHIPS["v5p"].flops,
    "TPU v5": CHIPS["v5p"].flops,
    "TPU v5 lite": CHIPS["v5e"].flops,
    "TPU v5e": CHIPS["v5e"].flops,
    "TPU v6 lite": CHIPS["v6e"].flops,
    "TPU v6e": CHIPS["v6e"].flops,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA L4": 121e12,
}
# Shapes of the slices that are offered, by the number of axes.
SHAPES = {
    3: ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), (4, 4, 4), (4, 4, 8), (4, 8, 8), (8, 8, 8)),
    2: ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16)),
}


@dataclass(frozen=True)
class Slice:
    """A TPU slice: chips that are linked to each other."""

    kind: str  # a key of CHIPS
    shape: tuple[int, ...]

    @property
    def chip(self) -> Chip:
        """The peaks of each of its chips."""
        return CHIPS[self.kind]

    @property
    def chips(self) -> int:
        """Number of chips."""
        return math.prod(self.shape)

    @property
    def topology(self) -> str:
        """Its name for the compiler, e.g. v4:2x2x1."""
        return f"{self.kind}:{'x'.join(map(str, self.shape))}"

    @property
    def name(self) -> str:
        """Its name in the cloud, e.g. v4-8."""
        return f"{self.kind}-{self.chips * self.chip.cores}"


def peak_flops(kind: str) -> float | None:
    """Bf16 FLOPs per second of a device of that `device_kind`; None: it is not in PEAKS."""
    return PEAKS.get(kind)


def slices() -> list[Slice]:
    """Every slice that is offered."""
    return [Slice(kind, shape) for kind, chip in CHIPS.items() for shape in SHAPES[chip.axes]]


def find_slice(name: str) -> Slice:
    """A slice by its topology (v4:2x2x2) or its name in the cloud (v4-16).

    Raises:
        UserError: no slice has that name; the message lists those that are offered.
    """
    for offered in slices():
        if name in (offered.topology, offered.name):
            return offered
    # any other shape that the chips could form; the compiler may still refuse it
    kind, _, shape = name.partition(":")
    if kind in CHIPS and re.fullmatch(r"[1-9]\d?(x[1-9]\d?)+", shape):
        sizes = tuple(map(int, shape.split("x")))
        if len(sizes) == CHIPS[kind].axes:
            return Slice(kind, sizes)
    listed = ", ".join(f"{offered.name} ({offered.topology})" for offered in slices())
    raise UserError(f"--topology {name}: no such slice; there are {listed}")
