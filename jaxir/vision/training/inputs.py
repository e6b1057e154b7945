"""The inputs that runs of one ALBEF config share, whatever their shares and seeds."""

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
from jaxir.vision.data.collection import CaptionSet, read_captions, source_name, split_captions
from jaxir.vision.data.pipeline import CaptionLoader
from jaxir.vision.evaluation.dataset import ImageTextDataset, image_text_dataset
from jaxir.vision.models.initial_weights import load_initial_weights


@dataclass(frozen=True)
class AlbefInputs:
    """Everything read from disk, before any step; see `jaxir.training.task.Inputs`."""

    model: AlbefModelConfig  # with its true shape, which weights or a tokenizer may have decided
    params: Any | None  # initial weights; None: random
    tokenizer: Any
    tokens: Tokens  # of all captions
    parts: Mapping[str, CaptionSet]  # "training", "held_out" and the sources that are held out
    datasets: Mapping[str, ImageTextDataset]
    data_report: Mapping[str, Any]
    judge: Judge | None = None  # scores the top-ranked captions by another model

    @property
    def training(self) -> Collection:
        """The captioned images that batches are drawn from."""
        return self.parts["training"].collection

    @property
    def held_out(self) -> Collection:
        """The captioned images of the validated dataset, or none."""
        training = self.parts["training"]
        return self.parts.get(self.validated, training.take(np.array([], int))).collection

    @property
    def validated(self) -> str:
        """Name of the dataset that is evaluated during training, the first; "": none."""
        return next(iter(self.datasets), "")

    def loader(
        self, config: AlbefConfig, collection: Collection, schedule: Hybrid, training: bool
    ) -> CaptionLoader:
        """The batches of a schedule; only images for training are augmented."""
        captions = next(one for one in self.parts.values() if one.collection is collection)
        return CaptionLoader(captions, schedule, self.tokens, config.captions, augments=training)


def read_inputs(config: AlbefConfig, workdir: epath.Path) -> AlbefInputs:
    """Read images, captions and weights that the runs of a config need.

    Raises:
        UserError: names what is wrong in the images, the captions, the weights or the config.
    """
    _check_queue(config)
    judge = load_judge(config.evaluation.judge) if config.evaluation.judge else None
    # read together, so that a group has one number in training and in evaluation
    sources = (*config.captions.sources, *config.evaluation.sources)
    captions = read_captions(dataclasses.replace(config.captions, sources=sources))
    parts = _parts(captions, config)
    model, params, tokenizer = load_initial_weights(config, parts["training"].collection, workdir)
    tokens = read_tokens(captions.collection.texts, tokenizer, workdir / "tokens")
    report = dict(captions.collection.report)
    report["images_of_part"] = {name: len(np.unique(part.image)) for name, part in parts.items()}
    measured = {name: part for name, part in parts.items() if name != "training"}
    datasets = {name: image_text_dataset(part, tokens) for name, part in measured.items()}
    return AlbefInputs(model, params, tokenizer, tokens, parts, datasets, report, judge)


def _check_queue(config: AlbefConfig) -> None:
    queue, devices = config.loss.queue, jax.device_count()
    if config.loss.momentum and queue % devices:
        raise UserError(f"config.loss.queue = {queue}: must be a multiple of the {devices} devices")


def _parts(captions: CaptionSet, config: AlbefConfig) -> dict[str, CaptionSet]:
    """The training set, the held-out sets split off it, and the sources for evaluation alone."""
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
