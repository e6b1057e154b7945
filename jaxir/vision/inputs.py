"""What runs of one ALBEF config share: images, captions, tokens, the model's shape, tasks."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxir.data.collection import Collection
from jaxir.data.hybrid import Hybrid
from jaxir.data.tokens import Tokens, read_tokens
from jaxir.errors import UserError
from jaxir.training.tokenizers import check_fits, shaped_by, tokenizer_of
from jaxir.vision.albef_folder import params_from_folders
from jaxir.vision.captions import CaptionSet, read_captions, source_name, split_captions
from jaxir.vision.config import AlbefConfig, AlbefModelConfig
from jaxir.vision.judge import Judge, load_judge
from jaxir.vision.loader import CaptionLoader
from jaxir.vision.tasks import ImageTask, image_task


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
    model, params, tokenizer = read_start(config, parts["training"].collection, workdir)
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


def read_start(
    config: AlbefConfig, training: Collection | None, workdir: epath.Path
) -> tuple[AlbefModelConfig, Any | None, Any]:
    """The model with its true shape, the weights it starts from, and its tokenizer.

    Args:
        config: the run.
        training: what a tokenizer of its own is trained on; None: it has been.
        workdir: where that tokenizer is kept.

    Raises:
        UserError: names what is wrong in the weights, the tokenizer or the config.
    """
    model = config.model
    tokenizer = tokenizer_of(model, model.init_text, training, workdir, with_mask=True)
    if tokenizer.mask_token_id is None:
        raise UserError(f"config.model.tokenizer = {model.tokenizer!r}: it has no mask token")
    params = None
    if not model.init_text:
        model = dataclasses.replace(model, text=shaped_by(tokenizer, model.text))
    if model.init_text or model.init_vision:
        model, params = params_from_folders(model, jax.random.key(config.seed))
    check_fits(tokenizer, model.text, model.tokenizer, model.init_text)
    tokens, limit = config.captions.max_caption_tokens, model.text.max_tokens
    if tokens > limit:
        raise UserError(
            f"config.captions.max_caption_tokens = {tokens}: must be from 3 to the {limit} that "
            f"the model's {model.text.positions} positions have room for"
        )
    special = tuple(sorted(set(tokenizer.all_special_ids)))
    model = dataclasses.replace(model, mask_id=tokenizer.mask_token_id, special_ids=special)
    return model, params, tokenizer
