"""What runs of one ALBEF config share: images, captions, tokens, the model's shape, tasks."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxir.config import AlbefConfig, AlbefModelConfig
from jaxir.data.collection import Collection
from jaxir.data.hybrid import Hybrid
from jaxir.data.tokens import Tokens, read_tokens
from jaxir.errors import UserError
from jaxir.vision.clipscore.judge import Judge, load_judge
from jaxir.vision.data.captions import CaptionSet, read_captions, source_name, split_captions
from jaxir.vision.data.pipeline import CaptionLoader
from jaxir.vision.evaluation.image_task import ImageTask, image_task
from jaxir.vision.models.initial_weights import load_initial_weights


@dataclass(frozen=True)
class AlbefInputs:
    """Everything read from disk, before any step."""

    model: AlbefModelConfig  # with the true shape, which weights or a tokenizer may have decided
    params: Any | None  # of the weights to start from; None: random
    tokenizer: Any
    tokens: Tokens  # of all captions
    parts: Mapping[str, CaptionSet]  # "training", "held_out" and the sources that are held out
    tasks: Mapping[str, ImageTask]
    data_report: Mapping[str, Any]
    judge: Judge | None = None  # of the captions found

    @property
    def training(self) -> Collection:
        """What the batches are drawn from."""
        return self.parts["training"].collection

    @property
    def held_out(self) -> Collection:
        """What was kept from training: the first of the tasks, or nothing."""
        training = self.parts["training"]
        return self.parts.get(self.first_task, training.take(np.array([], int))).collection

    @property
    def first_task(self) -> str:
        """The one that is measured on the way; "" where nothing is held out."""
        return next(iter(self.tasks), "")

    def applied(self, config: AlbefConfig) -> AlbefConfig:
        """The config with the model's true shape."""
        return dataclasses.replace(config, model=self.model)

    def loader(
        self, config: AlbefConfig, collection: Collection, hybrid: Hybrid, training: bool
    ) -> CaptionLoader:
        """The batches of a schedule; images that are only measured are not changed by chance."""
        captions = next(one for one in self.parts.values() if one.collection is collection)
        return CaptionLoader(captions, hybrid, self.tokens, config.captions, augments=training)


def prepare(config: AlbefConfig, workdir: epath.Path) -> AlbefInputs:
    """Read all that the runs of a config need.

    Raises:
        UserError: names what is wrong in the images, the captions, the weights or the config.
    """
    _check_queue(config)
    measured = config.evaluation.sources
    judge = load_judge(config.evaluation.judge) if config.evaluation.judge else None
    # in one reading, so that what is depicted has one number, in training and out of it
    every = dataclasses.replace(config.captions, sources=(*config.captions.sources, *measured))
    captions = read_captions(every)
    parts = _parts(captions, config)
    model, params, tokenizer = load_initial_weights(config, parts["training"].collection, workdir)
    tokens = read_tokens(captions.collection.texts, tokenizer, workdir / "tokens")
    report = dict(captions.collection.report)
    report["images_of_part"] = {name: len(np.unique(part.image)) for name, part in parts.items()}
    tasks = {name: image_task(part, tokens) for name, part in parts.items() if name != "training"}
    return AlbefInputs(model, params, tokenizer, tokens, parts, tasks, report, judge)


def _check_queue(config: AlbefConfig) -> None:
    queue, devices = config.loss.queue, jax.device_count()
    if config.loss.momentum and queue % devices:
        raise UserError(f"config.loss.queue = {queue}: must be a multiple of the {devices} devices")


def _parts(captions: CaptionSet, config: AlbefConfig) -> dict[str, CaptionSet]:
    """What is trained on, what `captions` holds out of that, and the sources that are measured."""
    source_of = np.array([captions.source_of[number] for number in captions.image])
    own = [source_name(source) for source in config.captions.sources]
    split = split_captions(captions.take(np.flatnonzero(np.isin(source_of, own))), config.captions)
    parts = {
        "training": split.training,
        "held_out": split.held_out,
        "held_out_sources": split.held_out_sources,
    }
    parts = {name: part for name, part in parts.items() if len(part.collection.ids)}
    for source in config.evaluation.sources:
        if source.name in own or source.name in parts:
            raise UserError(
                f"config.evaluation.sources: another part is called {source.name!r}; rename it"
            )
        parts[source.name] = captions.take(np.flatnonzero(source_of == source.name))
    return parts
