"""jaxir is ahead of what a user would pick instead, in the same run; `-s` shows the figures.

By how much depends on the CPU and on what else it does: README has figures with their machines.
"""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="compares with PyTorch: pip install torch")
pytest.importorskip("sentence_transformers", reason="pip install sentence-transformers")
PEER = "sentence-transformers"


@pytest.mark.timed
@pytest.mark.parametrize(
    ("name", "ratio", "least"),
    [
        ("train", f"speedup over {PEER}", 1.3),
        ("encode", f"speedup over {PEER}", 1.0),
    ],
)
def test_ahead_of_sentence_transformers(name, ratio, least, tmp_path):
    output = tmp_path / "figures.json"
    command = [sys.executable, "-m", "jaxir.bench", name, "--against", PEER, "--rounds", "2"]
    # as a user runs it: these tests compile fast, for several devices, not for speed
    of_tests = ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")
    environment = {key: value for key, value in os.environ.items() if key not in of_tests}
    subprocess.run(
        [*command, "--output", str(output)],
        check=True,
        capture_output=True,
        env=environment,
        timeout=900,
    )
    found = json.loads(output.read_text())
    print(found["machine"], found[name][ratio])
    assert found[name][ratio]["ratio of medians"] > least
