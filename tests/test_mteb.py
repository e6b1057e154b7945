"""mteb runs a jaxir model: the figures and rankings of our own search, on a task made here."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from jaxir import ModelSettings, Retriever

mteb = pytest.importorskip("mteb", reason="needs the extra `mteb`", exc_type=ImportError)
datasets = pytest.importorskip("datasets", reason="needs the extra `mteb`")

from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.models.models_protocols import EncoderProtocol  # noqa: E402
from mteb.types import PromptType  # noqa: E402

from jaxir.mteb import MtebEncoder  # noqa: E402

MODEL = Path(__file__).parent / "fixtures" / "labse"
PREFIXES = ModelSettings(query_prefix="a ", passage_prefix="b c ")
# of mteb and what it uses; ours stay errors
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:(torch|mteb|datasets).*"),
]


def texts_of(count, seed):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(list("abcd"), rng.integers(3, 9))) + f" {n}" for n in range(count)]


PASSAGES = texts_of(60, seed=0)
QUERIES = [f"{text} d" for text in PASSAGES[:15]]


class LettersRetrieval(AbsTaskRetrieval):
    """Sixty documents, one of them empty, and fifteen queries."""

    metadata = TaskMetadata(
        name="LettersRetrieval",
        description="letters",
        dataset={"path": "made/here", "revision": "1"},
        type="Retrieval",
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
    )

    def load_data(self, *arguments, **kwargs):
        """Nothing is fetched."""
        documents = [*PASSAGES, ""]
        corpus = [{"id": f"p{n}", "text": text, "title": ""} for n, text in enumerate(documents)]
        queries = [{"id": f"q{n}", "text": text} for n, text in enumerate(QUERIES)]
        split = {
            "corpus": datasets.Dataset.from_list(corpus),
            "queries": datasets.Dataset.from_list(queries),
            "relevant_docs": {f"q{n}": {f"p{n}": 1} for n in range(len(QUERIES))},
            "top_ranked": None,
        }
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


@pytest.fixture(scope="module")
def encoder():
    return MtebEncoder(MODEL, settings=PREFIXES)


def encode(encoder, batches, prompt_type=None):
    given = {"task_metadata": LettersRetrieval.metadata, "hf_split": "test", "hf_subset": "x"}
    return encoder.encode([{"text": batch} for batch in batches], prompt_type=prompt_type, **given)


def test_figures_and_rankings_are_those_of_our_search(encoder, tmp_path):
    assert isinstance(encoder, EncoderProtocol)
    found = mteb.evaluate(
        encoder,
        [LettersRetrieval()],
        cache=None,
        prediction_folder=tmp_path,
        co2_tracker=False,
        show_progress_bar=False,
    )
    (scores,) = found[0].scores["test"]
    (file,) = tmp_path.rglob("*.json")
    ranked = json.loads(file.read_text())["default"]["test"]
    retriever = Retriever.load(MODEL, PREFIXES)
    index = retriever.index(PASSAGES, ids=[f"p{n}" for n in range(len(PASSAGES))])
    gains = []
    for number, results in enumerate(index.search(QUERIES, k=len(PASSAGES))):
        theirs = {key: x for key, x in ranked[f"q{number}"].items() if key != f"p{len(PASSAGES)}"}
        ours = {result.id: result.score for result in results}
        assert theirs.keys() == ours.keys()
        np.testing.assert_allclose([theirs[key] for key in ours], [*ours.values()], atol=1e-5)
        scored = ranked[f"q{number}"]  # which the scores above say is our ranking
        before = sum(score > scored[f"p{number}"] for score in scored.values())
        gains.append(1 / np.log2(before + 2) if before < 10 else 0.0)
    assert scores["ndcg_at_10"] == pytest.approx(np.mean(gains), abs=1e-4)
    assert 0 < scores["ndcg_at_10"] < 1


@pytest.mark.filterwarnings("ignore:.*texts are empty")
def test_sides_batches_and_empty_texts(encoder):
    retriever = Retriever.load(MODEL, PREFIXES)
    batches = [PASSAGES[:7], PASSAGES[7:9], PASSAGES[9:]]
    as_queries = retriever.encode_queries(PASSAGES)
    as_passages = retriever.encode_passages(PASSAGES)
    for prompt_type, expected in (
        (PromptType.document, as_passages),
        (PromptType.query, as_queries),
        (None, as_queries),
    ):
        found = encode(encoder, batches, prompt_type)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    for without in (
        encoder,
        MtebEncoder(MODEL, settings=ModelSettings(query_prefix="", passage_prefix="")),
    ):
        for prompt_type in (*PromptType, None):
            found = encode(without, [["", "  ", "\ud800", "a"], [""]], prompt_type)
            assert found.shape == (5, retriever.width)
            assert np.isfinite(found).all()
            np.testing.assert_allclose(found[0], found[4], atol=1e-5)
    assert encode(encoder, []).shape == (0, retriever.width)


def test_what_mteb_is_told_of_the_model(encoder, tmp_path):
    described = encoder.mteb_model_meta
    assert described.name == "jaxir/labse"
    assert described.framework == ["JAX"]
    retriever = Retriever.load(MODEL, PREFIXES)
    assert described.embed_dim == retriever.width
    assert described.n_parameters > 0
    # what embeds alike has one revision, wherever it lies, and nothing else has
    copy = shutil.copytree(MODEL, tmp_path / "copy")
    same = [MtebEncoder(retriever), MtebEncoder(copy, settings=PREFIXES)]
    assert {one.mteb_model_meta.revision for one in same} == {described.revision}
    others = [
        ModelSettings(),
        dataclasses.replace(PREFIXES, max_query_tokens=5),
        dataclasses.replace(PREFIXES, compute_dtype="bfloat16"),
    ]
    revisions = {MtebEncoder(MODEL, settings=other).mteb_model_meta.revision for other in others}
    assert len(revisions | {described.revision}) == 4
    assert MtebEncoder(MODEL, "mine").mteb_model_meta.revision == "mine"
    elsewhere = Retriever(retriever.model, "intfloat/multilingual-e5-base")
    assert MtebEncoder(elsewhere).mteb_model_meta.name == "intfloat/multilingual-e5-base"
