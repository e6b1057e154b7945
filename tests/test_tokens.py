"""Cached token ids equal the tokenizer's own; the cache grows, and says what broke."""

import resource
import shutil
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from jaxir.config import TOKENIZER_KINDS
from jaxir.data import tokens as tokens_module
from jaxir.data.tokenizer import train_tokenizer
from jaxir.data.tokens import read_tokens
from jaxir.errors import UserError

TEXTS = [
    "Query: What is the capital of France?",
    "Query: Was ist die Hauptstadt von Frankreich?",
    "Query: 法国的首都是什么？",
    "Query: เมืองหลวงของฝรั่งเศสคืออะไร",
    "",
    "Passage: " + "Paris is the capital and largest city of France. " * 20,
    "Query: What is the capital of France?",
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS * 3, 200)


def _own(tokenizer, texts, limit):
    return tokenizer(texts, truncation=True, max_length=limit)["input_ids"]


@pytest.mark.parametrize("limit", [5, 16, 64])
def test_ids_equal_the_tokenizers(tokenizer, tmp_path, limit):
    for _ in range(2):  # made, then read from the cache
        tokens = read_tokens(TEXTS, tokenizer, tmp_path)
        ids, lengths = tokens.padded(np.arange(len(TEXTS)), limit)
        for row, length, expected in zip(ids, lengths, _own(tokenizer, TEXTS, limit), strict=True):
            assert row[:length].tolist() == expected
            assert (row[length:] == tokenizer.pad_token_id).all()


def test_a_wordpiece_tokenizers_ids_too(tmp_path):
    from transformers import BertTokenizer

    vocab = tmp_path / "vocab.txt"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "is", "par", "##is", "?", ":"]
    vocab.write_text("\n".join(pieces) + "\n")
    tokenizer = BertTokenizer(str(vocab), do_lower_case=False)
    texts = ["what is paris?", "paris", "unknown words: what"]
    ids, lengths = read_tokens(texts, tokenizer, tmp_path).padded(np.arange(3), 8)
    expected = _own(tokenizer, texts, 8)
    assert [row[:n].tolist() for row, n in zip(ids, lengths)] == expected
    assert tokenizer.unk_token_id not in ids[0]  # the oracle is not blind


def test_few_words_are_whole_pieces_of_bpe_and_spelled_by_unigram():
    words = ["two", "red", "circles", "at", "the", "bottom", "right"]
    texts = [f"{a} {b}" for a in words for b in words]
    pieces = {
        kind: train_tokenizer(texts, 300, kind=kind).tokenize(" ".join(words))
        for kind in ("bpe", "unigram")
    }
    assert pieces["bpe"] == [f"▁{word}" for word in words]
    assert len(pieces["unigram"]) > 2 * len(words)


@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
def test_every_kind_has_the_frame_of_xlm_r(kind):
    tokenizer = train_tokenizer(TEXTS * 3, 200, with_mask=True, kind=kind)
    special = tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    assert special == [0, 1, 2, 3, 4]
    ids = tokenizer("What is ☃ the capital?")["input_ids"]
    assert (ids[0], ids[-1], ids.count(3)) == (0, 2, 1)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "What is  the capital?"


def test_only_missing_texts_are_tokenized(tokenizer, tmp_path, monkeypatch):
    read_tokens(TEXTS[:3], tokenizer, tmp_path)
    built = []
    original = tokens_module._tokenize

    def tokenize(texts, *rest):
        built.extend(texts)
        return original(texts, *rest)

    monkeypatch.setattr(tokens_module, "_tokenize", tokenize)
    both = read_tokens([*TEXTS, "Query: new"], tokenizer, tmp_path)
    assert sorted(built) == sorted({*TEXTS[3:6], "Query: new"})
    assert len(both.segments) == 2
    ids, lengths = both.padded(np.array([0, 7, -1]), 32)
    assert ids[0, : lengths[0]].tolist() == _own(tokenizer, TEXTS[:1], 32)[0]
    assert lengths[2] == 0
    assert (ids[2] == tokenizer.pad_token_id).all()


def test_another_tokenizer_has_its_own_ids(tokenizer, tmp_path):
    other = train_tokenizer(["completely other words"] * 3 + TEXTS, 150)
    first = read_tokens(TEXTS, tokenizer, tmp_path).padded(np.array([0]), 32)[0]
    second = read_tokens(TEXTS, other, tmp_path).padded(np.array([0]), 32)[0]
    assert not np.array_equal(first, second)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_cache_is_named(tokenizer, tmp_path):
    read_tokens(TEXTS, tokenizer, tmp_path)
    (path,) = tmp_path.glob("*/segment-*/ids.npy")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"segment-.*damaged token cache.*delete that folder"):
        read_tokens(TEXTS, tokenizer, tmp_path)


def test_deleted_segments_are_made_again(tokenizer, tmp_path):
    read_tokens(TEXTS, tokenizer, tmp_path)
    (segment,) = tmp_path.glob("*/segment-*")
    shutil.rmtree(segment)
    ids, lengths = read_tokens(TEXTS, tokenizer, tmp_path).padded(np.arange(len(TEXTS)), 64)
    for row, length, expected in zip(ids, lengths, _own(tokenizer, TEXTS, 64), strict=True):
        assert row[:length].tolist() == expected


def test_processes_share_the_building(tokenizer, tmp_path, monkeypatch):
    """Threads stand for processes: each claims segments, none is built twice, all see all."""
    monkeypatch.setattr(tokens_module, "TEXTS_PER_SEGMENT", 10)
    texts = [f"Query: number {n}" for n in range(200)]
    built, original = Counter(), tokens_module._tokenize

    def tokenize(part, *rest):
        built.update(part)
        time.sleep(0.01)
        return original(part, *rest)

    monkeypatch.setattr(tokens_module, "_tokenize", tokenize)
    read_tokens(texts[:15], tokenizer, tmp_path)
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: read_tokens(texts, tokenizer, tmp_path), range(3)))
    assert set(built.values()) == {1}
    every = [tokens.padded(np.arange(200), 16)[0] for tokens in results]
    np.testing.assert_array_equal(every[0], every[1])
    np.testing.assert_array_equal(every[0], every[2])
    assert not list(tmp_path.rglob("*.claim-*"))


def test_a_full_disk_leaves_nothing_behind(tokenizer, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        with pytest.raises(UserError, match=r"cannot write the token cache.*free some space"):
            read_tokens(TEXTS, tokenizer, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert [name.partition("-")[0] for name in left] == ["plan"]  # so that the next one goes on
    assert len(read_tokens(TEXTS, tokenizer, tmp_path).length) == len(TEXTS)
