"""How long a new process takes until a model answers."""

import json
import subprocess
import sys
from typing import Any

from jaxir.bench import timing
from jaxir.errors import UserError

_LOAD = """
import json, sys, time
began, seconds = time.perf_counter(), {}
def done(what): seconds[what] = time.perf_counter() - began
import jaxir
done("import jaxir")
retriever = jaxir.Retriever.load(sys.argv[1])
done("Retriever usable")
index = retriever.index(["Die Donau entspringt im Schwarzwald.", "Paris is in France."])
index.search(["Where does the Danube rise?"], k=1)
done("first answer")
print(json.dumps(seconds))
"""


def measure(rounds: int, model: str) -> dict[str, Any]:
    """Seconds until a model can be used, in processes of their own."""
    measured = []
    for _ in range(rounds):
        process = subprocess.run(
            [sys.executable, "-c", _LOAD, model], capture_output=True, text=True
        )
        if process.returncode:
            raise UserError(f"{model}: {process.stderr.strip().splitlines()[-1]}")
        measured.append(json.loads(process.stdout))
    return {
        "model": model,
        "rounds": rounds,
        "seconds": {what: timing.spread([one[what] for one in measured]) for what in measured[0]},
    }
