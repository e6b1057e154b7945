"""Decontamination: drop training passages that overlap with XQuAD-R, an evaluation set.

A passage overlaps if it shares ten words in a row (a 10-gram) with a candidate sentence of XQuAD-R
in its language. Words are ICU's, which has dictionaries for the languages written without spaces
(ten characters in a row would be two words of Thai, and almost every Thai passage would overlap). A
candidate of fewer than ten words cannot be detected this way.

Dimension key: H hard negatives, R texts compared, V words of the candidates, S n-grams.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from icu4py.breakers import WordBreaker
from jaxtyping import Bool, Int, UInt64

from jaxir.data.collection import Collection, take_groups, with_hard_negatives
from jaxir.data.files import read_json
from jaxir.data.hashing import GOLDEN
from jaxir.errors import UserError

CHUNK = 4_096  # texts compared at a time; bounds the memory


def drop_overlap(
    collection: Collection, xquad_r_folder: str | Path, n: int = 10
) -> tuple[Collection, dict[str, int]]:
    """Drop the passages of a collection that share an n-gram of words with XQuAD-R.

    A text is dropped from its language alone: as passage, as hard negative and, in parallel text,
    as query. A group left without a query or without a passage is dropped as a whole.

    Args:
        collection: of any languages; those that the folder does not hold are left alone.
        xquad_r_folder: holds `<language>.json` with `sentence_breaks`.
        n: words of an n-gram.

    Returns:
        The rest, and the number of passages (one a group) that each checked language lost.

    Raises:
        UserError: the folder holds no file of a language of the collection, or not XQuAD-R.
    """
    query, passage = collection.query.copy(), collection.passage.copy()
    negative_language = _hard_negative_languages(collection)
    keep_negative = np.ones(len(collection.hard_negatives), bool)
    dropped = {}
    for column, language in enumerate(collection.languages):
        file = Path(xquad_r_folder) / f"{language}.json"
        if not file.is_file():
            continue
        negatives = collection.hard_negatives[negative_language == column]
        used = np.union1d(passage[:, column], negatives)
        used = used[used >= 0]
        overlaps = np.zeros(len(collection.texts) + 1, bool)  # the last one serves index -1
        texts = [collection.texts[text] for text in used]
        overlaps[used] = _shares_ngram(texts, list(_candidates(file)), language, n)
        overlapping = overlaps[passage[:, column]]
        parallel = overlapping & (query[:, column] == passage[:, column])
        dropped[language] = int(overlapping.sum())
        passage[overlapping, column] = query[parallel, column] = -1
        keep_negative[negative_language == column] = ~overlaps[negatives]
    if not dropped:
        raise UserError(
            f"{xquad_r_folder}: no <language>.json for {', '.join(collection.languages)}; "
            "mend data.drop_overlap_with"
        )
    report = collection.report | {"overlapping": dropped}
    rest = replace(collection, query=query, passage=passage, report=report)
    rest = with_hard_negatives(rest, keep_negative)
    complete = np.flatnonzero((query >= 0).any(axis=1) & (passage >= 0).any(axis=1))
    return take_groups(rest, complete), dropped


def _hard_negative_languages(collection: Collection) -> Int[np.ndarray, "H"]:
    lengths = np.diff(collection.hard_negative_offsets)
    return np.repeat(np.arange(len(lengths)) % len(collection.languages), lengths)


def _candidates(file: Path) -> Iterator[str]:
    document = read_json(file)
    try:
        for article in document["data"]:
            for paragraph in article["paragraphs"]:
                for start, end in paragraph["sentence_breaks"]:
                    yield paragraph["context"][start:end]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: not a file of XQuAD-R ({type(error).__name__} {error})") from None


def split_words(text: str, language: str) -> list[str]:
    """The words of a text in lower case, without punctuation (Unicode Standard Annex 29)."""
    text = unicodedata.normalize("NFKC", text).lower()
    return [word for word in WordBreaker(text, language) if word[:1].isalnum()]


def _shares_ngram(
    texts: Sequence[str], sentences: Sequence[str], language: str, n: int
) -> Bool[np.ndarray, "R"]:
    """Mask of the texts that share an n-gram with one of the sentences.

    N-grams are compared by 64-bit hashes, so that one pair of different ones in 2**64 is taken for
    equal.
    """
    word_ids: dict[str, int] = {}  # 0 is left for the words that no sentence has
    sentence_words = [
        [word_ids.setdefault(word, len(word_ids) + 1) for word in split_words(sentence, language)]
        for sentence in sentences
    ]
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2**64, len(word_ids) + 1, np.uint64)
    known, _ = _ngram_hashes(sentence_words, codes, n)
    shares = np.zeros(len(texts), bool)
    for start in range(0, len(texts), CHUNK):
        chunk = [
            [word_ids.get(word, 0) for word in split_words(text, language)]
            for text in texts[start : start + CHUNK]
        ]
        hashes, owner = _ngram_hashes(chunk, codes, n)
        shares[start + owner[np.isin(hashes, known)]] = True
    return shares


def _ngram_hashes(
    texts: Sequence[Sequence[int]], codes: UInt64[np.ndarray, "V"], n: int
) -> tuple[UInt64[np.ndarray, "S"], Int[np.ndarray, "S"]]:
    """Hashes of the n-grams without word 0, and the indices of the texts they are in."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    words = np.fromiter((word for text in texts for word in text), np.int64, int(lengths.sum()))
    if len(words) < n:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    owner = np.repeat(np.arange(len(texts)), lengths)
    starts = len(words) - n + 1
    # all texts are hashed as one row of words; n-grams across two texts are no n-grams
    valid = owner[:starts] == owner[n - 1 :]
    unknown = np.concatenate([[0], np.cumsum(words == 0)])
    valid &= unknown[n:] == unknown[:-n]
    # a polynomial of the words' random codes, for all starts at a time
    hashes = np.zeros(starts, np.uint64)
    for position in range(n):
        hashes = hashes * GOLDEN + codes[words[position : position + starts]]
    return hashes[valid], owner[:starts][valid]
