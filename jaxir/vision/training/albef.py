"""Runs that train ALBEF: what they are trained by, how they are measured, what they leave."""

from typing import Any

import jax
from etils import epath

from jaxir.config import AlbefConfig
from jaxir.evaluation.per_query import write_totals
from jaxir.evaluation.plots import save
from jaxir.runtime.processes import is_first
from jaxir.training.family import Family, Results
from jaxir.training.workdir import values_file
from jaxir.vision.evaluation.comparison import ALIGNMENT, CLIPSCORE, COLUMNS, totals_of
from jaxir.vision.evaluation.image_task import Programs, encode_task, make_programs, measure_task
from jaxir.vision.evaluation.pixel_baseline import pixel_baseline
from jaxir.vision.evaluation.retrieved import retrieved
from jaxir.vision.models.aligned_folder import of_run, write_aligned
from jaxir.vision.training.inputs import AlbefInputs, prepare
from jaxir.vision.training.objective import ALIGNING


def _measure(
    config: AlbefConfig, inputs: AlbefInputs, programs: Programs, params: Any
) -> dict[str, float]:
    """Both directions on the held-out images by ITC, and as `map` the mean of their R@1."""
    task = inputs.tasks[inputs.first_task].first(config.evaluation.images)
    encoded = encode_task(programs, params, task, config)
    summary = measure_task(programs, params, task, encoded, config).summary()
    both = [summary[key] for key in (ALIGNMENT.quality, "text_to_image/multilingual/R@1")]
    return summary | {"map": sum(both) / 2}


def _results(
    config: AlbefConfig,
    inputs: AlbefInputs,
    programs: Programs,
    params: Any,
    mesh: jax.sharding.Mesh,
    workdir: epath.Path,
) -> dict[str, dict[str, Any]]:
    """Every task's report: ranked by ITC and, where it was trained, re-scored by ITM."""
    tasks: dict[str, dict[str, Any]] = {}
    candidates = config.evaluation.candidates if config.loss.itm else 0
    background = config.captions.background
    for name, task in inputs.tasks.items():
        encoded = encode_task(programs, params, task, config)
        report = measure_task(programs, params, task, encoded, config)
        tasks[name] = {"trained": report.to_dict()}
        totals = totals_of(report)
        if inputs.judge:
            judgement = inputs.judge.of(name, task, encoded)
            tasks[name]["trained"][CLIPSCORE] = judgement.to_dict()
            totals[CLIPSCORE] = judgement.found
        if candidates:
            again = measure_task(programs, params, task, encoded, config, candidates)
            tasks[name][f"first {candidates} re-scored by ITM"] = again.to_dict()
        if config.evaluation.baselines:
            pixels = pixel_baseline(inputs.parts["training"], task.captions, background=background)
            tasks[name]["most alike pixels"] = pixels.to_dict()
        picture = retrieved(task, encoded, background)
        if is_first():
            write_totals(workdir / values_file(name), task.pool.languages, totals)
            save(picture, workdir / f"retrieved_{name}.png")
    return tasks


def _export(
    config: AlbefConfig, inputs: AlbefInputs, params: Any, results: Results, target: epath.Path
) -> None:
    write_aligned(target, of_run(config, params, inputs.tokenizer))


ALBEF = Family(
    objective=ALIGNING,
    prepare=prepare,
    embed=lambda config: make_programs(config.model),
    measure=_measure,
    results=_results,
    export=_export,
    columns=COLUMNS,
    comparison=ALIGNMENT,
)
