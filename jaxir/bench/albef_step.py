"""Speed and memory of a training step of ALBEF, with ITC alone and with each further loss.

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
from jaxir.data.batch import Batch
from jaxir.runtime.mesh import make_mesh, to_devices
from jaxir.training.step import TrainStep, make_state
from jaxir.vision.evaluation.encoders import make_encoders
from jaxir.vision.training.albef import ALBEF

VITS = {
    "small": VitConfig(image_size=64, hidden_size=256, layers=4, heads=4, intermediate_size=1024),
    "xlm-r-base": VitConfig(image_size=256),
}
QUEUES = {"small": 1_024, "xlm-r-base": 65_536}  # rounded down to a multiple of the batch
LENGTHS = (8, 20)  # tokens of synthetic captions
# Losses by the name of the variant that adds them, to those before it.
LOSSES = {"ITC": "itc", "+ ITM": "itm", "+ MLM": "mlm", "+ momentum": "momentum"}
STEPS = 4  # per round


def run_config(shape: str, batch_size: int, dtype: str, dropout: float) -> AlbefConfig:
    """A run with ALBEF's settings, half of the text layers for fusion; dropout is the text's."""
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


def synthetic_batch(config: AlbefConfig) -> Batch:
    """Random images, each with one caption of random tokens."""
    rng = np.random.default_rng(0)
    rows, side = config.batch_size, config.captions.image_size
    lengths = rng.integers(LENGTHS[0], LENGTHS[1] + 1, rows).astype(np.int32)
    limit = config.captions.max_caption_tokens
    return {
        "pixels": rng.integers(0, 256, (rows, side, side, 3)).astype(np.uint8),
        "image_group": np.arange(rows, dtype=np.int32),
        "caption_ids": workloads.synthetic_ids(rng, lengths, limit, config.model.text),
        "caption_lengths": lengths,
        "other_ids": np.empty((rows, 0), np.int32),
        "other_lengths": np.zeros(rows, np.int32),
    }


class LossVariants:
    """Compiled steps with different losses that share one state, to save memory."""

    def __init__(self, config: AlbefConfig, mesh: jax.sharding.Mesh, losses: dict[str, str]):
        """Compile a step for each of `losses`, which adds its loss to those before it."""
        self.state = make_state(config, None, mesh, ALBEF)
        self.batch = to_devices(synthetic_batch(config), mesh)
        self.configs: dict[str, AlbefConfig] = {}
        self.train_steps: dict[str, TrainStep] = {}
        self.peak_bytes: dict[str, float] = {}
        enabled = dict.fromkeys(LOSSES.values(), False)
        for name, added in losses.items():
            enabled[added] = True
            loss = dataclasses.replace(config.loss, **enabled)
            variant = self.configs[name] = dataclasses.replace(config, loss=loss)
            step = TrainStep(variant, ALBEF)
            self.peak_bytes[name] = step.compile(self._state(name), self.batch).peak_bytes
            self.train_steps[name] = step

    def _state(self, name: str) -> dict[str, Any]:
        """The part of the state that a variant's step takes: the aux state is momentum's."""
        momentum = self.configs[name].loss.momentum
        return {key: part for key, part in self.state.items() if momentum or key != "aux_state"}

    def steps(self, name: str) -> float:
        """Take the steps of a round, and return the last one's loss."""
        for _ in range(STEPS):
            state, metrics = self.train_steps[name](self._state(name), self.batch)
            self.state |= state
        return float(metrics["loss"])


def measure(config: AlbefConfig, rounds: int) -> dict[str, Any]:
    """Speed of steps with ITC alone and with one more loss each time, in turn, and of the towers.

    Args:
        config: the run.
        rounds: number of times that each is measured.
    """
    mesh = make_mesh(config)
    with jax.set_mesh(mesh):
        variants = LossVariants(config, mesh, LOSSES)
        params = variants.state["params"]["model"]
        results: dict[str, Any] = {
            "images per step": config.batch_size,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
            "precision": config.model.compute_dtype,
            "image size": config.captions.image_size,
            "tokens per caption, padding included": config.captions.max_caption_tokens,
            "queue size": config.loss.queue,
        }
        calls = {name: partial(variants.steps, name) for name in variants.train_steps}
        seconds = timing.alternate(calls, rounds)
        towers = timing.alternate(_towers(config, variants), rounds)
    for name, times in seconds.items():
        steps = [x / STEPS for x in times]
        loss = variants.configs[name].loss
        images_per_second = config.batch_size / float(np.median(steps))
        results[name] = {
            "seconds per step": timing.spread(steps),
            "images per second": images_per_second,
            # ITM takes each pair and its two hard negatives, MLM the pair with a masked caption
            "pairs per second through the fusion layers": (
                images_per_second * (3 * loss.itm + loss.mlm)
            ),
            "planned peak memory, GiB": variants.peak_bytes[name] / 2**30,
        }
    results["forward seconds of the towers"] = {
        name: timing.spread(times) for name, times in towers.items()
    }
    return results


def _towers(config: AlbefConfig, variants: LossVariants) -> dict[str, Callable[[], object]]:
    """Calls that encode the batch's images and its captions, without a gradient."""
    programs, batch = make_encoders(config.model), variants.batch
    params = variants.state["params"]["model"]
    texts = (batch["caption_ids"], batch["caption_lengths"])
    return {
        "images": lambda: jax.block_until_ready(programs.image(params, batch["pixels"])),
        "captions": lambda: jax.block_until_ready(programs.text(params, *texts)),
    }
