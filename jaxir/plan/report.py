"""A plan as a table and as JSON, and the search for the largest batch that fits."""

import copy
import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jaxir.config import Config
from jaxir.plan.chips import GIB, Slice, find_slice
from jaxir.plan.compiling import StepCost, plan, plan_search, roofline
from jaxir.progress import still_at
from jaxir.runtime.files import write_json

logger = logging.getLogger(__name__)

LARGEST = 1 << 14  # pairs on a chip; nobody trains a retriever with more


def report_plan(
    config: Config,
    topology: str,
    search: bool,
    mfu: float,
    cache: Path,
    output: Path | None,
    tokens_a_pair: float = 0.0,
) -> None:
    """Plan, print the tables, and write the JSON if asked to.

    Raises:
        UserError: unknown topology, libtpu missing, or nothing fits.
    """
    place = find_slice(topology)
    with still_at(f"compiling for {topology}"):
        if search:
            config, tried = largest_batch(config, place, cache, tokens_a_pair)
            _print_tried(tried, place)
        cost = plan(config, place, cache, tokens_a_pair)
        report = _report(config, place, cost, mfu) | {"tokens a pair": tokens_a_pair or None}
        report["search step"] = dataclasses.asdict(
            plan_search(config.model.embedding_size, place, cache)
        )
    _print(report, place)
    if output:
        write_json(output, report)


def ways_to_fit(config: Config) -> Iterator[tuple[str, Config]]:
    """The config as it is, then with one thing more that saves memory each time."""
    config = copy.deepcopy(config)
    yield "as it is", copy.deepcopy(config)
    for name, section, field, value in (
        ("remat of all but products", config.model, "remat", "products"),
        ("remat of whole layers", config.model, "remat", "layers"),
        ("gradient caching, 64 texts at once", config.scale, "grad_cache_chunk", 64),
        ("FSDP", config.scale, "fsdp", True),
    ):
        if getattr(section, field) != value:
            setattr(section, field, value)
            yield name, copy.deepcopy(config)


def largest_batch(
    config: Config, place: Slice, cache: Path, tokens_a_pair: float = 0.0
) -> tuple[Config, list[tuple[str, int]]]:
    """The config with the largest power of two of pairs on a chip that fits, by the first way."""
    tried: list[tuple[str, int]] = []
    best: Config | None = None
    for way, candidate in ways_to_fit(config):
        fits, size = 0, 64
        while size <= LARGEST:
            candidate.batch_size = size * place.chips
            cost = plan(candidate, place, cache, tokens_a_pair)
            logger.info(
                "%s, %d pairs on a chip: %s", way, size, "fits" if cost.fits else "too large"
            )
            if not cost.fits:
                break
            fits, size = size, 2 * size
        tried.append((way, fits))
        if fits and (best is None or fits * place.chips > best.batch_size):
            best = copy.deepcopy(candidate)
            best.batch_size = fits * place.chips
    return best or config, tried


def _report(config: Config, place: Slice, cost: StepCost, mfu: float) -> dict[str, Any]:
    time = roofline(cost, place)
    # of the model alone: what is computed again is no use to anyone
    seconds = cost.useful_flops / (mfu * place.chip.flops)
    return {
        "slice": {"name": place.name, "topology": place.topology, "chips": place.chips},
        "batch_size": config.batch_size,
        "pairs_per_chip": config.batch_size // place.chips,
        "tokens": [config.model.max_query_tokens, config.model.max_passage_tokens],
        "tokens of a shared row": config.model.packed_length,
        "remat": config.model.remat,
        "scale": dataclasses.asdict(config.scale),
        "per chip and step": dataclasses.asdict(cost),
        "usable HBM": place.chip.hbm,
        "roofline": dataclasses.asdict(time),
        "mfu": mfu,
        "seconds a step at that mfu": seconds,
        "pairs a second at that mfu": config.batch_size / seconds,
        "from": "computed by the TPU compiler, not measured",
    }


def _print_tried(tried: list[tuple[str, int]], place: Slice) -> None:
    table = Table(title=f"largest batch that fits {place.name}", title_justify="left")
    table.add_column("way, each with those above it")
    table.add_column("pairs on a chip", justify="right")
    table.add_column("in the batch", justify="right")
    for way, size in tried:
        table.add_row(way, f"{size:,}" if size else "none", f"{size * place.chips:,}")
    _show(table)


def _print(report: dict[str, Any], place: Slice) -> None:
    cost, time = report["per chip and step"], report["roofline"]
    table = Table(
        title=f"{place.name} ({place.topology}, {place.chips} chips), batch "
        f"{report['batch_size']:,}: computed by the TPU compiler, not measured",
        title_justify="left",
    )
    table.add_column("per chip and step")
    table.add_column("", justify="right")
    hbm = report["usable HBM"] / GIB
    verdict = f"of {hbm:.2f} GiB" if cost["fits"] else f"[bold]does not fit[/bold] {hbm:.2f} GiB"
    table.add_row("memory at the peak", f"{cost['memory'] / GIB:.2f} {verdict}")
    if cost["fits"]:
        table.add_row("of it parameters, optimizer, batch", f"{cost['arguments'] / GIB:.2f} GiB")
        table.add_row("of it activations and the like", f"{cost['temporary'] / GIB:.2f} GiB")
    table.add_row("FLOPs of matrix products", f"{cost['flops']:.3g}")
    table.add_row("of it computed again", f"{cost['flops'] - cost['useful_flops']:.3g}")
    if cost["fits"]:
        table.add_row("bytes through HBM", f"{cost['hbm_bytes'] / GIB:.2f} GiB")
        for kind, size in cost["collective_bytes"].items():
            table.add_row(f"operands of {kind}", f"{size / GIB:.3f} GiB")
        table.add_row("estimated cycles", f"{cost['cycles']:.3g}")
        for resource, seconds in time["by_resource"].items():
            bound = " (the bound)" if resource == time["bound"] else ""
            table.add_row(f"time of {resource} at its peak{bound}", f"{seconds * 1e3:.1f} ms")
    table.add_row(
        f"pairs a second at {report['mfu']:.0%} MFU", f"{report['pairs a second at that mfu']:,.0f}"
    )
    search = report["search step"]
    table.add_row(
        "search: 256 queries, 256 MiB of index on each chip",
        f"{search['memory'] / GIB:.2f} GiB, {search['hbm_bytes'] / GIB:.2f} GiB through HBM",
    )
    _show(table)


def _show(table: Table) -> None:
    console = Console()
    console.width = max(console.width, 110)
    console.print(table)
