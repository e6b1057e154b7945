"""The task that trains ALBEF: its losses, its evaluation, its export."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jaxtyping import Array

from jaxir.config import AlbefConfig
from jaxir.evaluation.per_query import write_metric_sums
from jaxir.evaluation.plots import save
from jaxir.runtime.processes import is_first
from jaxir.training.task import AuxState, Metrics, Results, Setup
from jaxir.training.workdir import values_file
from jaxir.vision.evaluation.comparison import ALIGNMENT, CLIPSCORE, COLUMNS, metric_sums
from jaxir.vision.evaluation.dataset import encode_dataset, evaluate_dataset
from jaxir.vision.evaluation.encoders import AlbefEncoders, make_encoders
from jaxir.vision.evaluation.pixel_baseline import pixel_baseline
from jaxir.vision.evaluation.retrieved_images import draw_retrieved_images
from jaxir.vision.models import albef
from jaxir.vision.models.aligned_folder import aligned_model_of_run, write_aligned
from jaxir.vision.training.albef_loss import alpha_at, total_loss
from jaxir.vision.training.inputs import AlbefInputs, read_inputs
from jaxir.vision.training.momentum import init_aux


class AlbefTask:
    """Training and evaluation of ALBEF on images and captions; see `jaxir.training.task.Task`."""

    columns = COLUMNS
    comparison = ALIGNMENT

    def read_inputs(self, config: AlbefConfig, workdir: epath.Path) -> AlbefInputs:
        """Read images, captions and weights that the runs of a config need."""
        return read_inputs(config, workdir)

    def init_params(self, config: AlbefConfig, pretrained: Any | None) -> dict[str, Any]:
        """The parameters of image encoder, text encoder and fusion layers."""
        if pretrained is None:
            pretrained = albef.init_params(config.model, jax.random.key(config.seed))
        return {"model": pretrained}

    def init_aux(self, config: AlbefConfig, params: dict[str, Any]) -> AuxState:
        """The momentum model and the queues of its features; empty without momentum."""
        return init_aux(config.model, config.loss, params["model"])

    def loss(
        self,
        params: Any,
        aux_state: AuxState,
        batch: dict[str, Array],
        config: AlbefConfig,
        step: Array,
        seed: Array,
    ) -> tuple[Array, tuple[Metrics, AuxState]]:
        """The sum of the losses that are on: ITC, ITM, MLM."""
        alpha = alpha_at(config.loss, step)
        total, metrics, aux_state = total_loss(
            config.model, config.loss, params["model"], aux_state, batch, alpha, seed
        )
        return total, (metrics, aux_state)

    def validation_loss(self, params: Any, batch: dict[str, Array], config: AlbefConfig) -> Array:
        """The loss of the batch alone: one-hot targets, no queue, always the same masks."""
        alone = dataclasses.replace(config.loss, momentum=False)
        return total_loss(config.model, alone, params["model"], {}, batch, 0.0, jnp.uint32(0))[0]

    def make_encoders(self, config: AlbefConfig) -> AlbefEncoders:
        """The jitted encoders of images and captions, and the matching head."""
        return make_encoders(config.model)

    def validate(self, setup: Setup, params: Any) -> dict[str, float]:
        """Both directions by ITC on the held-out images; `map` is the mean of their R@1."""
        config, encoders = setup.config, setup.compiled.encoders
        dataset = setup.inputs.datasets[setup.inputs.validated].subset(config.evaluation.images)
        encoded = encode_dataset(encoders, params, dataset, config)
        summary = evaluate_dataset(encoders, params, dataset, encoded, config).summary()
        both = [summary[key] for key in (ALIGNMENT.quality, "text_to_image/multilingual/R@1")]
        return summary | {"map": sum(both) / 2}

    def evaluate(self, setup: Setup, params: Any) -> dict[str, dict[str, Any]]:
        """Reports by dataset and system: ranked by ITC and, where it was trained, by ITM."""
        config, encoders, inputs = setup.config, setup.compiled.encoders, setup.inputs
        reports: dict[str, dict[str, Any]] = {}
        candidates = config.evaluation.candidates if config.loss.itm else 0
        background = config.captions.background
        for name, dataset in inputs.datasets.items():
            encoded = encode_dataset(encoders, params, dataset, config)
            report = evaluate_dataset(encoders, params, dataset, encoded, config)
            reports[name] = {"trained": report.to_dict()}
            totals = metric_sums(report)
            if inputs.judge:
                judgement = inputs.judge.score(name, dataset, encoded)
                reports[name]["trained"][CLIPSCORE] = judgement.to_dict()
                totals[CLIPSCORE] = judgement.scores
            if candidates:
                rescored = evaluate_dataset(encoders, params, dataset, encoded, config, candidates)
                reports[name][f"top {candidates} re-scored by ITM"] = rescored.to_dict()
            if config.evaluation.baselines:
                training = inputs.parts["training"]
                pixels = pixel_baseline(training, dataset.captions, background=background)
                reports[name]["most alike pixels"] = pixels.to_dict()
            picture = draw_retrieved_images(dataset, encoded, background)
            if is_first():
                write_metric_sums(setup.workdir / values_file(name), dataset.pool.languages, totals)
                save(picture, setup.workdir / f"retrieved_{name}.png")
        return reports

    def export(self, setup: Setup, params: Any, results: Results) -> None:
        """Write ALBEF's towers and tokenizer as a folder of our own format."""
        model = aligned_model_of_run(setup.config, params, setup.inputs.tokenizer)
        write_aligned(setup.workdir / "export", model)


ALBEF = AlbefTask()
