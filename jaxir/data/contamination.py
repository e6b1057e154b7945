"""Training passages that overlap with XQuAD-R, which is made to be evaluated on.

A passage overlaps if ten words in a row also stand in a candidate sentence of XQuAD-R in its
language. Words are ICU's, which has dictionaries for the languages written without spaces (ten
characters in a row would be two words of Thai, and almost every Thai passage would overlap). A
candidate of fewer than ten words cannot be found this way.

Dimension key: H hard negatives, R texts compared, V known words, S runs of words.
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
from jaxir.errors import UserError

CHUNK = 4_096  # texts compared at a time; bounds the memory


def drop_overlap(
    collection: Collection, xquad_r_folder: str | Path, n: int = 10
) -> tuple[Collection, dict[str, int]]:
    """Take out of a collection the passages that share `n` words in a row with XQuAD-R.

    A text is taken out of its language alone: as passage, as hard negative and, in parallel text,
    as query. A group without a query or without a passage goes as a whole.

    Args:
        collection: of any languages; those that the folder does not hold are left alone.
        xquad_r_folder: holds `<language>.json` with `sentence_breaks`.
        n: words in a row.

    Returns:
        The rest, and the number of (group, passage) places that each checked language lost.

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
        stand = np.union1d(passage[:, column], negatives)
        stand = stand[stand >= 0]
        overlaps = np.zeros(len(collection.texts) + 1, bool)  # the last one is for place -1
        sentences = list(_candidates(file))
        texts = (collection.texts[text] for text in stand)
        overlaps[stand] = _share_words(list(texts), sentences, language, n)
        hit = overlaps[passage[:, column]]
        parallel = hit & (query[:, column] == passage[:, column])
        dropped[language] = int(hit.sum())
        passage[hit, column] = query[parallel, column] = -1
        keep_negative[negative_language == column] = ~overlaps[negatives]
    if not dropped:
        raise UserError(
            f"{xquad_r_folder}: no <language>.json for {', '.join(collection.languages)}; "
            "mend data.drop_overlap_with"
        )
    report = collection.report | {"overlapping": dropped}
    rest = replace(collection, query=query, passage=passage, report=report)
    rest = with_hard_negatives(rest, keep_negative)
    left = np.flatnonzero((query >= 0).any(axis=1) & (passage >= 0).any(axis=1))
    return take_groups(rest, left), dropped


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


def words_of(text: str, language: str) -> list[str]:
    """The words of a text in lower case, without punctuation (Unicode Standard Annex 29)."""
    text = unicodedata.normalize("NFKC", text).lower()
    return [word for word in WordBreaker(text, language) if word[:1].isalnum()]


def _share_words(
    texts: Sequence[str], sentences: Sequence[str], language: str, n: int
) -> Bool[np.ndarray, "R"]:
    """Whether each text has `n` words in a row that one of the sentences has.

    Words that no sentence has are all number 0; runs of words are compared by 64-bit hashes, so
    that one pair of different runs in 2**64 is taken for equal.
    """
    numbers: dict[str, int] = {}
    known = [
        [numbers.setdefault(word, len(numbers) + 1) for word in words_of(sentence, language)]
        for sentence in sentences
    ]
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2**64, len(numbers) + 1, np.uint64)
    wanted, _ = _runs(known, codes, n)
    found = np.zeros(len(texts), bool)
    for start in range(0, len(texts), CHUNK):
        chunk = [
            [numbers.get(word, 0) for word in words_of(text, language)]
            for text in texts[start : start + CHUNK]
        ]
        runs, owner = _runs(chunk, codes, n)
        found[start + owner[np.isin(runs, wanted)]] = True
    return found


def _runs(
    texts: Sequence[Sequence[int]], codes: UInt64[np.ndarray, "V"], n: int
) -> tuple[UInt64[np.ndarray, "S"], Int[np.ndarray, "S"]]:
    """Hashes of the runs of `n` known words inside one text, and the texts they stand in."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    words = np.fromiter((word for text in texts for word in text), np.int64, int(lengths.sum()))
    if len(words) < n:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    owner = np.repeat(np.arange(len(texts)), lengths)
    starts = len(words) - n + 1
    inside = owner[:starts] == owner[n - 1 :]
    unknown = np.concatenate([[0], np.cumsum(words == 0)])
    inside &= unknown[n:] == unknown[:-n]
    hashes = np.zeros(starts, np.uint64)
    for place in range(n):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + codes[words[place : place + starts]]
    return hashes[inside], owner[:starts][inside]
