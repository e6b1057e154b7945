"""A plan as a table on the terminal and as JSON."""

import dataclasses
from pathlib import Path
from typing import Any

from rich.table import Table

from jaxir.config import Config
from jaxir.evaluation.tables import print_table
from jaxir.plan.chips import GIB, Slice, find_slice
from jaxir.plan.compiling import plan_search, plan_step
from jaxir.plan.largest_batch import largest_batch
from jaxir.plan.roofline import StepCost, roofline
from jaxir.progress import still_at
from jaxir.retrieval import chunks, topk
from jaxir.runtime.files import write_json


def report_plan(
    config: Config,
    topology: str,
    find_largest: bool,
    mfu: float,
    cache: Path,
    output: Path | None,
    tokens_per_pair: float = 0.0,
) -> None:
    """Plan, print the tables, and write the JSON if asked to.

    Args:
        config: as for `plan_step`.
        topology: the slice, by its topology or its name in the cloud.
        find_largest: plan the largest batch that fits instead of the config's.
        mfu: fraction of the chips' peak FLOPs that the step is taken to reach.
        cache: folder of plans.
        output: JSON file; None: nothing is written.
        tokens_per_pair: as for `plan_step`.

    Raises:
        UserError: the topology is unknown, libtpu is missing, or the batch does not divide.
    """
    tpu_slice = find_slice(topology)
    with still_at(f"compiling for {topology}"):
        if find_largest:
            config, tried = largest_batch(config, tpu_slice, cache, tokens_per_pair)
            _print_tried(tried, tpu_slice)
        cost = plan_step(config, tpu_slice, cache, tokens_per_pair)
        search_cost = plan_search(config.model.embedding_size, tpu_slice, cache)
    report = _report(config, tpu_slice, cost, mfu) | {
        "tokens per pair": tokens_per_pair or None,
        "search step": dataclasses.asdict(search_cost),
    }
    _print(report, tpu_slice)
    if output:
        write_json(output, report)


def _report(config: Config, tpu_slice: Slice, cost: StepCost, mfu: float) -> dict[str, Any]:
    # MFU counts the model's FLOPs alone, so rematerialization costs time and earns nothing. Here
    # it is assumed, and gives the time: model FLOPs / (MFU x peak FLOPs per second).
    seconds = cost.model_flops / (mfu * tpu_slice.chip.flops)
    return {
        "slice": {
            "name": tpu_slice.name,
            "topology": tpu_slice.topology,
            "chips": tpu_slice.chips,
        },
        "batch size": config.batch_size,
        "pairs per chip": config.batch_size // tpu_slice.chips,
        "max tokens": [config.model.max_query_tokens, config.model.max_passage_tokens],
        "packed length": config.model.packed_length,
        "remat": config.model.remat,
        "scale": dataclasses.asdict(config.scale),
        "per chip and step": dataclasses.asdict(cost),
        "usable HBM": tpu_slice.chip.hbm,
        "roofline": dataclasses.asdict(roofline(cost, tpu_slice)),
        "MFU": mfu,
        "seconds per step at that MFU": seconds,
        "pairs per second at that MFU": config.batch_size / seconds,
        "source": "computed by the TPU compiler, not measured",
    }


def _print_tried(tried: list[tuple[str, int]], tpu_slice: Slice) -> None:
    table = Table(title=f"Largest batch that fits {tpu_slice.name}", title_justify="left")
    table.add_column("memory saving, with those above it")
    table.add_column("pairs per chip", justify="right")
    table.add_column("batch size", justify="right")
    for saving, size in tried:
        table.add_row(saving, f"{size:,}" if size else "none", f"{size * tpu_slice.chips:,}")
    print_table(table)


def _print(report: dict[str, Any], tpu_slice: Slice) -> None:
    cost, time = report["per chip and step"], report["roofline"]
    table = Table(
        title=f"{tpu_slice.name} ({tpu_slice.topology}, {tpu_slice.chips} chips), batch of "
        f"{report['batch size']:,} pairs: computed by the TPU compiler, not measured",
        title_justify="left",
    )
    table.add_column("per chip and step")
    table.add_column("", justify="right")
    hbm = report["usable HBM"] / GIB
    verdict = f"of {hbm:.2f} GiB" if cost["fits"] else f"[bold]does not fit[/bold] {hbm:.2f} GiB"
    table.add_row("peak memory", f"{cost['peak_bytes'] / GIB:.2f} {verdict}")
    if cost["fits"]:
        table.add_row(
            "  parameters, optimizer state, batch", f"{cost['argument_bytes'] / GIB:.2f} GiB"
        )
        table.add_row(
            "  activations and other temporaries", f"{cost['temporary_bytes'] / GIB:.2f} GiB"
        )
    table.add_row("matmul FLOPs", f"{cost['flops']:.3g}")
    table.add_row("  rematerialized", f"{cost['flops'] - cost['model_flops']:.3g}")
    if cost["fits"]:
        table.add_row("HBM traffic", f"{cost['hbm_bytes'] / GIB:.2f} GiB")
        for kind, size in cost["collective_bytes"].items():
            table.add_row(f"operands of {kind}", f"{size / GIB:.3f} GiB")
        table.add_row("estimated cycles", f"{cost['cycles']:.3g}")
        for resource, seconds in time["by_resource"].items():
            bound = " (bounds the step)" if resource == time["bound"] else ""
            table.add_row(f"time at the peak of {resource}{bound}", f"{seconds * 1e3:.1f} ms")
    table.add_row(
        f"pairs per second at {report['MFU']:.0%} MFU",
        f"{report['pairs per second at that MFU']:,.0f}",
    )
    search = report["search step"]
    table.add_row(
        f"search: {topk.QUERY_BLOCK} queries, {chunks.CHUNK_BYTES >> 20} MiB of index per chip",
        f"{search['peak_bytes'] / GIB:.2f} GiB, HBM traffic {search['hbm_bytes'] / GIB:.2f} GiB",
    )
    print_table(table)
