"""HBM bytes, collectives and cycles of a compiled TPU program, read from the text of its HLO.

The compiler's own cost analysis takes the body of a loop, and so a stack of layers, once; here each
computation counts as often as it runs.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
PARAMETERS, LOSS = "parameters and gradients", "embeddings for the loss"
# outside a fusion these read their operands from HBM and write their result to it
HBM_OPCODES = ("convolution", "dot", "copy", "gather", "scatter", "sort")
# instructions that give the same bytes another shape
VIEWS = ("bitcast", "reshape")


class Size(NamedTuple):
    """Bytes of a value, and of its parts that stand in HBM."""

    total: float
    in_hbm: float


@dataclass(frozen=True)
class Instruction:
    """An instruction of an HLO computation."""

    name: str
    size: Size  # of its result
    opcode: str  # of an asynchronous pair the first: all-gather for all-gather-start
    operands: list[str]  # their names
    cycles: int  # the compiler's estimate
    calls: dict[str, str]  # computations by role: body, condition, calls, to_apply, ...
    branches: list[str]  # computations of a conditional
    of_parameters: bool  # a collective of the step's own `shard_map`
    constant: int | None
    parameter: int  # number of a computation's parameter, -1 for all else


Computations = dict[str, list[Instruction]]


def read_program(text: str) -> tuple[float, dict[str, float], float]:
    """HBM bytes, operand bytes by kind of collective, and estimated cycles of a compiled program.

    HBM bytes are the operands and results of every fusion, product and copy that stands outside a
    fusion: what is not kept in registers has to travel. Values that the compiler keeps in the
    chip's own memory, space S(1) or higher, do not; of an operand of which a fusion reads or
    writes a slice only, as of the stacked parameters of all layers, the slice does. No value is
    taken to stay on the chip from one instruction to the next, so the sum is an upper estimate.
    """
    computations = _parse(text)
    trip_counts = _trip_counts(computations)
    hbm_bytes, cycles = 0.0, 0.0
    collective_bytes: dict[str, float] = defaultdict(float)
    for computation, instructions in computations.items():
        trips = trip_counts.get(computation, 0)
        if not trips:  # the body of a fusion or of a reduction, which counts with its caller
            continue
        sizes = {instruction.name: instruction.size for instruction in instructions}
        for instruction in instructions:
            fused = []
            if instruction.opcode == "fusion":
                fused = computations.get(instruction.calls.get("calls", ""), [])
            # a reduce-scatter is a fusion with an all-reduce in it
            for group in ([instruction], fused):
                for kind, size in _collectives(group, sizes):
                    collective_bytes[kind] += trips * size
            hbm_bytes += trips * _hbm_bytes(instruction, fused, sizes)
            cycles += trips * instruction.cycles
    return hbm_bytes, dict(collective_bytes), cycles


def _collectives(
    instructions: Sequence[Instruction], sizes: dict[str, Size]
) -> Iterator[tuple[str, float]]:
    """The kind of each collective among some instructions, and the bytes of its operands.

    Args:
        instructions: of one computation.
        sizes: values outside of it that they may take.
    """
    sizes = sizes | {instruction.name: instruction.size for instruction in instructions}
    for instruction in instructions:
        if instruction.opcode in COLLECTIVES:
            content = PARAMETERS if instruction.of_parameters else LOSS
            operands = [sizes[name].total for name in instruction.operands if name in sizes]
            yield f"{instruction.opcode}, {content}", sum(operands)


def _hbm_bytes(
    instruction: Instruction, fused: Sequence[Instruction], sizes: dict[str, Size]
) -> float:
    """HBM bytes that an instruction outside a fusion reads and writes.

    Args:
        instruction: it.
        fused: of a fusion, the instructions in it.
        sizes: values of the computation by name.
    """
    result = instruction.size.in_hbm
    if instruction.opcode == "fusion":
        # by position: parameter i of the fused computation is operand i
        operands = [sizes.get(name, Size(0.0, 0.0)).in_hbm for name in instruction.operands]
        return _fusion_bytes(fused, operands, result)
    operands = [sizes[name].in_hbm for name in instruction.operands if name in sizes]
    if instruction.opcode == "dynamic-update-slice":
        # in place: the update is read and written, the rest of the array stays where it is
        return 2 * operands[1]
    if instruction.opcode in HBM_OPCODES:
        return result + sum(operands)
    return 0.0  # views, tuples, and the loops and calls whose bodies count by themselves


def _fusion_bytes(fused: Sequence[Instruction], operands: Sequence[float], result: float) -> float:
    """HBM bytes that a fusion reads and writes.

    Args:
        fused: the instructions in it.
        operands: bytes of each operand in HBM.
        result: those of the result.
    """
    by_name = {instruction.name: instruction for instruction in fused}
    users: dict[str, list[Instruction]] = defaultdict(list)
    for instruction in fused:
        for operand in instruction.operands:
            users[operand].append(instruction)

    def uses(name: str) -> Iterator[tuple[str, Instruction]]:
        """Instructions that use a value, each with the name by which it does, through views."""
        for user in users[name]:
            if user.opcode in VIEWS:
                yield from uses(user.name)
            else:
                yield name, user

    total = result
    for instruction in fused:
        # an operand in the chip's own memory has no bytes in HBM
        if instruction.opcode != "parameter" or not operands[instruction.parameter]:
            continue
        whole = operands[instruction.parameter]
        read = 0.0
        for name, user in uses(instruction.name):
            if user.opcode == "dynamic-slice":
                # a layer's part of the stacked parameters: only the slice is read
                read += user.size.total
            elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
                # The result is this operand with one slice replaced, written in place: neither the
                # rest of the operand nor that of the result moves. So the operand's size comes off
                # the result's, which holds it whole, and the update's counts as written.
                total -= min(total, whole)
                read += by_name[user.operands[1]].size.total
            else:
                read = whole
                break
        # many slices cost no more than all of the operand
        total += min(read, whole)
    return total


def _trip_counts(computations: Computations) -> dict[str, int]:
    """Number of times that each computation runs; bodies of fusions have none of their own."""
    trip_counts: dict[str, int] = defaultdict(int)
    waiting = [("ENTRY", 1)]
    while waiting:
        name, trips = waiting.pop()
        trip_counts[name] += trips
        for instruction in computations.get(name, []):
            calls = instruction.calls
            if instruction.opcode == "while":
                # A scan becomes a loop that counts from 0 to its length, so the constant that the
                # condition compares with is its trip count; loops in loops multiply.
                constants = [x.constant for x in computations[calls["condition"]]]
                limit = max((x for x in constants if x is not None), default=1)
                waiting.append((calls["body"], trips * limit))
            elif instruction.opcode == "conditional":
                # one branch runs; the first is as good as any for a bound
                branches = [
                    *instruction.branches,
                    *(calls[role] for role in calls if "computation" in role),
                ]
                waiting.extend((branch, trips) for branch in branches[:1])
            elif instruction.opcode == "call":
                waiting.append((calls["to_apply"], trips))
    return trip_counts


# name, type, opcode and operands; a type has no space before a parenthesis
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = (.*?) ([a-z][\w\-]*)\(([^)]*)\)")
_CALLED = re.compile(
    r"(body|condition|to_apply|calls|true_computation|false_computation)=%([\w.\-]+)"
)
# of the step's own collectives inside `shard_map`; all others bring embeddings to the loss
_OF_PARAMETERS = re.compile(r'op_name="[^"]*shard_map/[^"]*(psum|all_gather|reduce_scatter)')
# bf16[12,4,8]{2,1,0:T(8,128)S(1)}: element type, shape, and the memory space if it is not HBM
_TYPE = re.compile(r"([a-z]+\d*)\[([\d,]*)\](?:\{[^}]*?(S\(\d+\))?\})?")


def _parse(text: str) -> Computations:
    """Instructions by computation; the program's entry is called ENTRY."""
    computations: Computations = {}
    current: list[Instruction] = []
    for line in text.splitlines():
        if line and not line[0].isspace() and line.rstrip().endswith("{"):
            word = line.split()[0]
            name = "ENTRY" if word == "ENTRY" else word.lstrip("%")
            current = computations.setdefault(name, [])
        elif match := _INSTRUCTION.match(line):
            current.append(_instruction(line, *match.groups()))
    return computations


def _instruction(line: str, name: str, type_: str, opcode: str, operands: str) -> Instruction:
    cycles = re.search(r'"estimated_cycles":"(\d+)"', line)
    branches = re.search(r"branch_computations=\{([^}]*)\}", line)
    constant = re.search(r"constant\((\d+)\)", line)
    return Instruction(
        name=name,
        size=_size(type_),
        opcode=opcode.removesuffix("-start"),
        operands=re.findall(r"%([\w.\-]+)", operands),
        cycles=int(cycles[1]) if cycles else 0,
        calls=dict(_CALLED.findall(line)),
        branches=re.findall(r"%([\w.\-]+)", branches[1]) if branches else [],
        of_parameters=bool(_OF_PARAMETERS.search(line)),
        constant=int(constant[1]) if constant else None,
        parameter=int(operands) if opcode == "parameter" else -1,
    )


def _size(type_: str) -> Size:
    """Bytes of a type, which may be a tuple."""
    total, in_hbm = 0.0, 0.0
    for element, shape, space in _TYPE.findall(type_):
        # f32, bf16 and s4 say their bits; pred takes a byte; token and opaque take nothing
        bits = 8 if element == "pred" else int(re.sub(r"\D", "", element) or 0)
        size = bits / 8 * float(math.prod(int(x) for x in shape.split(",") if x))
        total += size
        in_hbm += 0.0 if space else size
    return Size(total, in_hbm)
