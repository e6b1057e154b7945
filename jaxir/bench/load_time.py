"""Time that a new process takes until a model answers its first query."""

import json
import subprocess
import sys
from typing import Any

from jaxir.bench import timing
from jaxir.errors import UserError

_LOAD = """
import json, sys, time
began, seconds = time.perf_counter(), {}
def done(event): seconds[event] = time.perf_counter() - began
import jaxir
done("import jaxir")
retriever = jaxir.Retriever.load(sys.argv[1])
done("Retriever loaded")
index = retriever.index(["Die Donau entspringt im Schwarzwald.", "Paris is in France."])
index.search(["Where does the Danube rise?"], k=1)
done("first search")
print(json.dumps(seconds))
"""


def measure(rounds: int, model: str) -> dict[str, Any]:
    """Seconds from the start of the script, in a new process each round.

    Raises:
        UserError: the model cannot be loaded.
    """
    measured = []
    for _ in range(rounds):
        process = subprocess.run(
            [sys.executable, "-c", _LOAD, model], capture_output=True, text=True
        )
        if process.returncode:
            raise UserError(f"--model {model}: {process.stderr.strip().splitlines()[-1]}")
        measured.append(json.loads(process.stdout))
    return {
        "model": model,
        "rounds": rounds,
        "seconds": {
            event: timing.spread([seconds[event] for seconds in measured]) for event in measured[0]
        },
    }
