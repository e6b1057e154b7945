"""The cost of a step on one chip, and the least time that the chip's peaks allow for it."""

from dataclasses import dataclass

from jaxir.plan.chips import Slice


@dataclass(frozen=True)
class StepCost:
    """Memory, FLOPs and traffic of a step on one chip.

    Where it does not fit, the compiler says by how much and gives no further analysis: all but
    `peak_bytes` and the FLOPs are 0.
    """

    fits: bool
    peak_bytes: float  # of HBM
    argument_bytes: float  # of these, parameters, optimizer state and batch
    temporary_bytes: float  # of these, activations and other temporaries
    flops: float  # of matrix products, rematerialized ones included
    model_flops: float  # without rematerialization
    hbm_bytes: float  # read and written
    collective_bytes: dict[str, float]  # operands, by kind of collective and by what they hold
    cycles: float  # the compiler's estimate, 0 where it has none


@dataclass(frozen=True)
class StepTime:
    """The least time of a step, and the resource that bounds it."""

    seconds: float
    bound: str
    by_resource: dict[str, float]  # seconds


def roofline(cost: StepCost, tpu_slice: Slice) -> StepTime:
    """Seconds that each resource of the chip needs at its peak; the slowest bounds the step.

    The three overlap at best, so the step takes at least as long as the slowest of them. HBM
    traffic is an upper estimate (`read_program`), and so is its time.
    """
    chip = tpu_slice.chip
    seconds = {
        "matrix units": cost.flops / chip.flops,
        "HBM": cost.hbm_bytes / chip.hbm_bandwidth,
        "links": sum(cost.collective_bytes.values()) / chip.link_bandwidth,
    }
    bound = max(seconds, key=lambda name: seconds[name])
    return StepTime(seconds[bound], bound, seconds)
