"""What a training step of ALBEF takes, and what each of its losses adds to that.

Dimension key: B rows, S image side, L tokens.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxir.bench import timing, workloads
from jaxir.config import (
    AlbefConfig,
    AlbefLossConfig,
    AlbefModelConfig,
    CaptionsConfig,
    OptimizerConfig,
    VitConfig,
)
from jaxir.data.pipeline import Batch
from jaxir.runtime.mesh import make_mesh, to_devices
from jaxir.training.step import compile_step, make_state
from jaxir.vision.evaluation.image_task import make_programs
from jaxir.vision.training.albef import ALBEF

VITS = {
    "small": VitConfig(image_size=64, hidden_size=256, layers=4, heads=4, intermediate_size=1024),
    "xlm-r-base": VitConfig(image_size=256),
}
QUEUES = {"small": 1_024, "xlm-r-base": 65_536}  # or what is next to it that the batch divides
LENGTHS = (8, 20)  # tokens of made-up captions
# each row of the table has one more
LOSSES = {"ITC": "itc", "+ ITM": "itm", "+ MLM": "mlm", "+ momentum": "momentum"}
STEPS = 4  # in a round


def run_config(shape: str, batch_size: int, dtype: str, dropout: float) -> AlbefConfig:
    """A run with ALBEF's settings, half of the text layers for fusion; dropout is the texts'."""
    text = dataclasses.replace(workloads.SHAPES[shape], dropout=dropout, attention_dropout=dropout)
    vit = VITS[shape]
    model = AlbefModelConfig(
        vit,
        text,
        text_layers=text.layers // 2,
        compute_dtype=dtype,
        mask_id=text.vocab_size - 1,
    )
    return AlbefConfig(
        steps=10_000,
        batch_size=batch_size,
        model=model,
        captions=CaptionsConfig(image_size=vit.image_size),
        loss=AlbefLossConfig(queue=batch_size * max(1, QUEUES[shape] // batch_size)),
        optimizer=OptimizerConfig(learning_rate=1e-5, warmup_steps=0),
    )


def made_up_batch(config: AlbefConfig) -> Batch:
    """Random pixels and captions of made-up lengths, each image with one caption."""
    rng = np.random.default_rng(0)
    rows, side = config.batch_size, config.captions.image_size
    lengths = rng.integers(LENGTHS[0], LENGTHS[1] + 1, rows).astype(np.int32)
    limit = config.captions.max_caption_tokens
    return {
        "pixels": rng.integers(0, 256, (rows, side, side, 3)).astype(np.uint8),
        "image_group": np.arange(rows, dtype=np.int32),
        "caption_ids": workloads.made_up_ids(rng, lengths, limit, config.model.text),
        "caption_lengths": lengths,
        "other_ids": np.empty((rows, 0), np.int32),
        "other_lengths": np.zeros(rows, np.int32),
    }


class Variants:
    """Steps with some of the losses, on one state, so that not each needs a state of its own."""

    def __init__(self, config: AlbefConfig, mesh: jax.sharding.Mesh, losses: dict[str, str]):
        """Compiles them: each has its own part and those before it."""
        self.state = make_state(config, None, mesh, ALBEF.objective)
        self.batch = to_devices(made_up_batch(config), mesh)
        self.configs: dict[str, AlbefConfig] = {}
        self.programs: dict[str, Any] = {}
        self.peak_bytes: dict[str, float] = {}
        parts = dict.fromkeys(LOSSES.values(), False)
        for name, part in losses.items():
            parts[part] = True
            loss = dataclasses.replace(config.loss, **parts)
            one = self.configs[name] = dataclasses.replace(config, loss=loss)
            program, cost = compile_step(one, self._state(name), self.batch, ALBEF.objective)
            self.programs[name], self.peak_bytes[name] = program, cost["peak_bytes"]

    def _state(self, name: str) -> dict[str, Any]:
        """What a variant's step takes of the state."""
        carries = self.configs[name].loss.momentum
        return {key: part for key, part in self.state.items() if carries or key != "aux_state"}

    def steps(self, name: str) -> float:
        """Take some; the last one's loss."""
        for _ in range(STEPS):
            state, metrics = self.programs[name](self._state(name), self.batch)
            self.state |= state
        return float(metrics["loss"])


def measure(config: AlbefConfig, rounds: int) -> dict[str, Any]:
    """Steps with ITC only, and with one part more each time, in turns; the towers by themselves.

    Args:
        config: the run.
        rounds: how often each is measured.
    """
    mesh = make_mesh(config)
    with jax.set_mesh(mesh):
        variants = Variants(config, mesh, LOSSES)
        params = variants.state["params"]["model"]
        figures: dict[str, Any] = {
            "images a step": config.batch_size,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
            "precision": config.model.compute_dtype,
            "image side": config.captions.image_size,
            "tokens of a caption, padding included": config.captions.max_caption_tokens,
            "queue": config.loss.queue,
        }
        calls = {name: partial(variants.steps, name) for name in variants.programs}
        seconds = timing.in_turns(calls, rounds)
        towers = timing.in_turns(_towers(config, variants), rounds)
    for name, times in seconds.items():
        steps = [x / STEPS for x in times]
        loss, a_second = variants.configs[name].loss, config.batch_size / float(np.median(steps))
        figures[name] = {
            "seconds a step": timing.spread(steps),
            "images a second": a_second,
            # a pair and its two negatives, and the pair with its caption masked
            "pairs a second through the fusion layers": a_second * (3 * loss.itm + loss.mlm),
            "planned peak of memory, GiB": variants.peak_bytes[name] / 2**30,
        }
    figures["seconds of the towers, forward"] = {
        name: timing.spread(times) for name, times in towers.items()
    }
    return figures


def _towers(config: AlbefConfig, variants: Variants) -> dict[str, Callable[[], object]]:
    """What the batch's images and captions take by themselves, without a gradient."""
    programs, batch = make_programs(config.model), variants.batch
    params = variants.state["params"]["model"]
    texts = (batch["caption_ids"], batch["caption_lengths"])
    return {
        "images": lambda: jax.block_until_ready(programs.image(params, batch["pixels"])),
        "captions": lambda: jax.block_until_ready(programs.text(params, *texts)),
    }
