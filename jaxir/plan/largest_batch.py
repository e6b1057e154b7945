"""The search for the largest batch that fits a slice."""

import copy
import logging
from collections.abc import Iterator
from pathlib import Path

from jaxir.config import Config
from jaxir.plan.chips import Slice
from jaxir.plan.compiling import plan_step

logger = logging.getLogger(__name__)

SMALLEST, LARGEST = 64, 1 << 14  # pairs per chip; nobody trains a retriever with more


def memory_savings(config: Config) -> Iterator[tuple[str, Config]]:
    """The config as given, then with one more memory saving each time, cheapest first."""
    config = copy.deepcopy(config)
    yield "as configured", copy.deepcopy(config)
    for name, section, field, value in (
        ("rematerialize all but matmuls", config.model, "remat", "products"),
        ("rematerialize whole layers", config.model, "remat", "layers"),
        ("gradient caching in chunks of 64 texts", config.scale, "grad_cache_chunk", 64),
        ("FSDP", config.scale, "fsdp", True),
    ):
        if getattr(section, field) != value:
            setattr(section, field, value)
            yield name, copy.deepcopy(config)


def largest_batch(
    config: Config, tpu_slice: Slice, cache: Path, tokens_per_pair: float = 0.0
) -> tuple[Config, list[tuple[str, int]]]:
    """Find the largest batch that fits, a power of two of pairs per chip.

    Args:
        config: as for `plan_step`; its batch is ignored.
        tpu_slice: the slice.
        cache: folder of plans.
        tokens_per_pair: as for `plan_step`.

    Returns:
        The config with the largest batch, and with as few memory savings as it needs; the given
        one if nothing fits. And the largest number of pairs per chip for each of the savings, with
        those before it; 0: none fits.
    """
    tried: list[tuple[str, int]] = []
    best: Config | None = None
    for saving, candidate in memory_savings(config):
        fitting, size = 0, SMALLEST
        while size <= LARGEST:
            candidate.batch_size = size * tpu_slice.chips
            cost = plan_step(candidate, tpu_slice, cache, tokens_per_pair)
            verdict = "fits" if cost.fits else "too large"
            logger.info("%s, %d pairs per chip: %s", saving, size, verdict)
            if not cost.fits:
                break
            fitting, size = size, 2 * size
        tried.append((saving, fitting))
        if fitting and (best is None or fitting * tpu_slice.chips > best.batch_size):
            best = copy.deepcopy(candidate)
            best.batch_size = fitting * tpu_slice.chips
    return best or config, tried
