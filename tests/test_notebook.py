"""tpu/colab.ipynb: whole, without outputs, and it runs from the first cell to the last."""

import ast
import importlib
import importlib.util
import re
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "tpu" / "colab.ipynb"

# Jupyter's packages warn of each other, and close sockets late
jupyter_warns = pytest.mark.filterwarnings("ignore")


def read_notebook():
    nbformat = pytest.importorskip("nbformat")
    return nbformat.read(NOTEBOOK, as_version=nbformat.NO_CONVERT)


def code_of(notebook) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


@jupyter_warns
def test_notebook_is_valid_and_has_no_outputs():
    notebook = read_notebook()
    importlib.import_module("nbformat").validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs, cell.id
            assert cell.execution_count is None, cell.id


@jupyter_warns
def test_notebook_is_python_that_names_what_jaxir_has():
    names, modules = set(), set()
    for source in code_of(read_notebook()):
        # a line that begins with % or ! is no Python
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom):
                names |= {(node.module, one.name) for one in node.names}
            elif isinstance(node, ast.Import):
                modules |= {one.name for one in node.names}
            elif isinstance(node, ast.Constant) and re.fullmatch(r"jaxir\.\w+", str(node.value)):
                modules.add(node.value)  # started as a process
    assert {"jaxir.train", "jaxir.evaluate"} <= modules
    for module in modules:
        if module.split(".")[0] == "jaxir":
            assert importlib.util.find_spec(module), module
    ours = [(module, name) for module, name in names if module.split(".")[0] == "jaxir"]
    assert ("jaxir", "Retriever") in ours
    for module, name in ours:
        assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


@jupyter_warns
def test_notebook_leaves_jax_alone_before_its_processes_end():
    """A TPU is held by one process: what the notebook imports before must not start JAX."""
    cells = code_of(read_notebook())
    last_process = max(number for number, source in enumerate(cells) if "run(" in source)
    for source in cells[: last_process + 1]:
        imports = [
            name
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in (getattr(node, "module", None), *(one.name for one in node.names))
        ]
        assert not [name for name in imports if name and name.split(".")[0] in ("jax", "jaxir")]


@pytest.mark.slow
@jupyter_warns
def test_notebook_runs_headless(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    import nbformat

    monkeypatch.setenv("JAXIR_NOTEBOOK_STEPS", "20")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # one device, compiled as usual
    monkeypatch.delenv("MPLBACKEND", raising=False)
    for name in ("JAXIR_CACHE", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    folder = tmp_path / "session"
    folder.mkdir()
    notebook = read_notebook()
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    try:
        client.execute()  # raises where a cell fails
    finally:
        nbformat.write(notebook, tmp_path / "executed.ipynb")

    outputs = {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    everything = [one for some in outputs.values() for one in some]
    assert not [one for one in everything if one.output_type == "error"]
    shown = [one.data for one in everything if "data" in one]
    assert sum("image/png" in data for data in shown) >= 4
    assert not [one.text for one in everything if one.get("name") == "stderr"]

    # three questions, and under each a table of five places with language and score
    texts = [one.data["text/markdown"] for one in outputs["top"]]
    assert len(texts) == 6
    assert "How do people pay in Greenland?" in texts[0]
    for table in texts[1::2]:
        rows = table.splitlines()[2:]
        assert len(rows) == 5
        for row in rows:
            assert re.match(
                r"\| (\*\*)?\d(\*\*)? \| (\*\*)?-?\d\.\d{3}(\*\*)? \| (\*\*)?[a-z]{2}", row
            )
    (table,) = (
        one.data["text/markdown"] for one in outputs["figures"] if "text/markdown" in one.data
    )
    assert "hybrid-seed0" in table
    assert "BM25" in table
