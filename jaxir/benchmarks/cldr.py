"""The demo's benchmark: CLDR facts that are held out from training, among distractors.

There are two kinds of distractors: other facts of the same territory, and facts of another
territory with the same answer. Training texts name the territory and the relation, but never both
in one fact.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from jaxir.data.cldr import (
    HELD_OUT_SEED,
    Fact,
    all_facts,
    check_languages,
    held_out_facts,
    passage,
    question,
)
from jaxir.data.hashing import hash_words
from jaxir.evaluation.dataset import RetrievalDataset


def distractor_facts(
    held_out: Sequence[Fact], same_territory: int, same_answer: int
) -> tuple[Fact, ...]:
    """Training facts that share the territory, or relation and answer, of a held-out fact.

    Args:
        held_out: facts of the queries.
        same_territory: maximum number of facts of the same territory, for each held-out fact.
        same_answer: maximum number of facts with the same relation and answer, likewise.
    """
    excluded = set(held_out)
    candidates = [fact for fact in all_facts() if fact not in excluded]
    distractors: dict[Fact, None] = {}  # in the order of their insertion
    for fact in held_out:
        similar = [other for other in candidates if other.territory == fact.territory]
        distractors |= dict.fromkeys(_sample(fact, similar, same_territory))
        key = (fact.relation, fact.answer)
        similar = [other for other in candidates if (other.relation, other.answer) == key]
        distractors |= dict.fromkeys(_sample(fact, similar, same_answer))
    return tuple(distractors)


def _sample(fact: Fact, facts: Iterable[Fact], count: int) -> list[Fact]:
    """A sample of facts, the same in every process."""
    return sorted(facts, key=lambda other: hash_words(fact.id, other.id))[:count]


def cldr_dataset(
    languages: Sequence[str] = (),
    seed: int = HELD_OUT_SEED,
    same_territory: int = 3,
    same_answer: int = 2,
) -> RetrievalDataset:
    """Questions about the held-out facts; one multilingual pool of their answers and distractors.

    Args:
        languages: empty: all that have wordings.
        seed: of the held-out split; `read_cldr` leaves out that of `HELD_OUT_SEED`.
        same_territory: maximum number of distractors of the same territory for each fact.
        same_answer: maximum number of distractors with the same answer for each fact.

    Raises:
        UserError: a language has no wordings.
    """
    languages = check_languages(languages)
    held_out = held_out_facts(seed)
    pool = (*held_out, *distractor_facts(held_out, same_territory, same_answer))
    # fact i is passage i of each language's part of the pool: relevant in all languages
    relevant = np.arange(len(languages)) * len(pool) + np.arange(len(held_out))[:, None]
    return RetrievalDataset(
        name="CLDR",
        languages=languages,
        queries=[question(fact, language) for language in languages for fact in held_out],
        query_ids=[f"{fact.id}:{language}" for language in languages for fact in held_out],
        query_language=np.repeat(np.arange(len(languages)), len(held_out)),
        passages=[passage(fact, language) for language in languages for fact in pool],
        passage_ids=[f"{fact.id}:{language}" for language in languages for fact in pool],
        passage_language=np.repeat(np.arange(len(languages)), len(pool)),
        relevant=np.tile(relevant, (len(languages), 1)),
        question=np.tile(np.arange(len(held_out)), len(languages)),
    )
