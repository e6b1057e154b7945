"""Real multilingual weights against sentence-transformers: embeddings, training, export, ONNX.

The weights are those of intfloat/multilingual-e5-small as `multilingual-e5-small` makes them, a
tool that lies beside the checkout; the sentences are XQuAD-R's, which are only read here.
"""

import json
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra `parity`: PyTorch")
pytest.importorskip("sentence_transformers", reason="needs the extra `parity`")

from sentence_transformers import SentenceTransformer  # noqa: E402
from tiny import tiny_config  # noqa: E402

from jaxir import Retriever  # noqa: E402
from jaxir.benchmarks.xquad_r import read_xquad_r  # noqa: E402
from jaxir.models.dual_encoder import embed_packed  # noqa: E402
from jaxir.models.trained import ModelSettings, read_folder  # noqa: E402
from jaxir.training.retrieval import RETRIEVAL  # noqa: E402
from jaxir.training.run import run  # noqa: E402

SHARED = Path(__file__).parents[2] / "shared"
TOOL, XQUAD_R = SHARED / "tools/multilingual-e5-small", SHARED / "data/xquad-r"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not TOOL.exists(), reason=f"the weights are made by {TOOL}"),
    pytest.mark.skipif(not XQUAD_R.is_dir(), reason=f"the sentences are those of {XQUAD_R}"),
    # of PyTorch's exporter
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:# The axis name"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
PER_LANGUAGE = 23  # of questions, and of sentences, in eleven languages


@pytest.fixture(scope="module")
def e5(tmp_path_factory):
    """The folder with its own config."""
    folder = tmp_path_factory.mktemp("e5") / "model"
    subprocess.run([sys.executable, TOOL, folder], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module", params=["its tokenizer's padding", "the hub's config"])
def folder(request, e5, tmp_path_factory):
    """The hub's config pads with 0 (<s>), the tokenizer with 1."""
    if request.param.startswith("its"):
        return e5
    copy = tmp_path_factory.mktemp("hub") / "model"
    shutil.copytree(e5, copy)
    values = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(values | {"pad_token_id": 0}))
    return copy


@pytest.fixture(scope="module")
def texts():
    """Questions and sentences, over five hundred in all."""
    task = read_xquad_r(XQUAD_R, "sentence")
    return tuple(
        [
            text
            for language in range(11)
            for text in islice((t for t, n in zip(every, languages) if n == language), PER_LANGUAGE)
        ]
        for every, languages in (
            (task.queries, task.query_language),
            (task.passages, task.passage_language),
        )
    )


def packed(model, texts, width=512):
    """Embeddings of texts that follow one another in rows, as many as fit."""
    ids = model.tokenizer(texts)["input_ids"]
    rows, segments, places = [[]], [[]], []
    for one in ids:
        if len(rows[-1]) + len(one) > width:
            rows.append([])
            segments.append([])
        number = segments[-1][-1] + 1 if segments[-1] else 1
        rows[-1] += one
        segments[-1] += [number] * len(one)
        places.append((len(rows) - 1, number - 1))
    shape = (len(rows), width)
    table, numbers = np.full(shape, model.tokenizer.pad_token_id), np.zeros(shape, int)
    for row, (some, own) in enumerate(zip(rows, segments)):
        table[row, : len(some)], numbers[row, : len(own)] = some, own
    found = jax.jit(lambda params: embed_packed(model.config, params, table, numbers, 64))(
        model.params
    )
    row, number = np.array(places).T
    return np.asarray(found)[row, number]


def test_embeddings_padded_and_packed_are_those_of_sentence_transformers(folder, texts):
    queries, passages = texts
    assert len(queries) + len(passages) >= 500
    theirs = SentenceTransformer(str(folder), device="cpu")
    retriever = Retriever.load(folder)
    assert (retriever.model.query_prefix, retriever.model.passage_prefix) == (
        "query: ",
        "passage: ",
    )
    for ours, expected in (
        (retriever.encode_queries(queries), theirs.encode_query(queries)),
        (retriever.encode_passages(passages), theirs.encode_document(passages)),
    ):
        np.testing.assert_allclose(ours, expected, atol=1e-5, rtol=0)
    model = read_folder(str(folder)).adjusted(ModelSettings())
    prefixed = ["passage: " + text for text in passages]
    np.testing.assert_allclose(
        packed(model, prefixed), theirs.encode_document(passages), atol=1e-5, rtol=0
    )


def config_from(folder, workdir):
    """Two steps from the weights, on made-up texts."""
    config = tiny_config(workdir, steps=2, packed_length=128)
    model = config.model
    model.init, model.trained_tokenizer_size = str(folder), 0
    model.query_prefix, model.passage_prefix = "query: ", "passage: "
    model.max_query_tokens = model.max_passage_tokens = 128  # none of the texts is longer
    config.checkpoint.every, config.evaluation.every = 10, 0
    config.optimizer.learning_rate, config.optimizer.warmup_steps = 1e-4, 0
    config.logging.tensorboard = False
    return config


@pytest.fixture(scope="module")
def exported(folder, tmp_path_factory):
    """The export of a run that started from the weights."""
    workdir = tmp_path_factory.mktemp("run")
    run(config_from(folder, workdir), RETRIEVAL, workdir / "run")
    shutil.rmtree(workdir / "run/checkpoints")  # gigabytes
    return workdir / "run/export"


def test_training_starts_from_them_and_the_export_loads(folder, exported, texts):
    queries, passages = (some[::10] for some in texts)
    theirs = SentenceTransformer(str(exported), device="cpu")
    assert theirs.prompts["query"] == "query: "
    assert theirs.prompts["document"] == "passage: "
    ours = Retriever.load(exported)
    for embeddings, expected in (
        (ours.encode_queries(queries), theirs.encode_query(queries)),
        (ours.encode_passages(passages), theirs.encode_document(passages)),
    ):
        np.testing.assert_allclose(embeddings, expected, atol=1e-5, rtol=0)
    before = Retriever.load(folder).encode_queries(queries)
    moved = np.abs(ours.encode_queries(queries) - before).max()
    assert 1e-4 < moved < 0.5  # it was trained, and from these weights


class Whole(torch.nn.Module):
    """Encoder, pooling and normalization as one graph."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        return self.model(inputs)["sentence_embedding"]


def test_onnx_runtime_gives_the_same_embeddings(exported, texts, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra `parity`")
    queries = texts[0][::10]
    theirs = SentenceTransformer(str(exported), device="cpu")
    example = theirs.tokenizer(["a", "b c d"], padding=True, return_tensors="pt")
    names = ("input_ids", "attention_mask")
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=512)}
    with torch.no_grad():
        torch.onnx.export(
            Whole(theirs).eval(),
            tuple(example[name] for name in names),
            str(tmp_path / "model.onnx"),
            input_names=names,
            output_names=["sentence_embedding"],
            dynamic_shapes=dict.fromkeys(names, axes),
            dynamo=True,
        )
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    prefixed = ["query: " + text for text in queries]
    tokens = theirs.tokenizer(prefixed, padding=True, return_tensors="np")
    (found,) = session.run(None, {name: tokens[name] for name in names})
    expected = Retriever.load(exported).encode_queries(queries)
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
