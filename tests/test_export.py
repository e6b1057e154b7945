"""The command `export`: a folder that loads again, with a card that says how it was made."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_config

from jaxir import Retriever, export
from jaxir.errors import UserError
from jaxir.training.retrieval import RETRIEVAL
from jaxir.training.run import run

MODEL = Path(__file__).parent / "fixtures" / "labse"


def run_export(*arguments):
    return export.main(["export", *map(str, arguments)])


def test_an_exported_folder_is_the_same_model(tmp_path):
    assert run_export("--model", MODEL, "--output", tmp_path / "out") == 0
    ours, theirs = (Retriever.load(folder) for folder in (tmp_path / "out", MODEL))
    np.testing.assert_array_equal(ours.encode_queries(["a b"]), theirs.encode_queries(["a b"]))
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: sentence-transformers\n")
    assert "## Training" not in card
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").touch()
    with pytest.raises(UserError, match="exists and is no export of jaxir"):
        run_export("--model", MODEL, "--output", tmp_path / "out")
    with pytest.raises(UserError, match="--output is missing"):
        run_export("--model", MODEL)


@pytest.mark.slow
def test_the_card_of_a_run_says_how_it_was_made(tmp_path):
    config = tiny_config(tmp_path, steps=4)
    config.evaluation.every = 0
    run(config, RETRIEVAL, tmp_path / "run")
    run_export("--model", tmp_path / "run", "--output", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert card == (tmp_path / "run" / "export" / "README.md").read_text()
    for line in (
        'language: ["de", "en", "fr"]',
        "* Steps: 4 of 16 pairs; seed 0.",
        "* Data: rows.jsonl.",
        "* Rows of data: 360.",
        'Queries are prefixed with "Query: ", passages with "Passage: ".',
    ):
        assert line in card
    assert re.search(r"\* Shares of batches: .*monolingual \d", card)
    assert re.search(r"\* Command: `python -m jaxir.train", card)
    assert re.search(r"\| held_out, trained \| \d?\.\d+ \|", card)
