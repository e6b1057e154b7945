"""The demo's benchmark: facts of CLDR that were kept from training, among sentences that mislead.

Two kinds of sentences mislead: those that tell other facts of the same territory, and those that
tell of another territory with the same answer. Training has seen the territory and it has seen the
relation, never the two together.
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
    stateless_hash,
)
from jaxir.evaluation.dataset import RetrievalDataset


def distractor_facts(
    held_out: Sequence[Fact], same_territory: int, same_answer: int
) -> tuple[Fact, ...]:
    """For each held-out fact, training facts of its territory and others with its answer.

    Args:
        held_out: the facts asked for.
        same_territory: that many other facts of the territory, at most.
        same_answer: that many facts with the same relation and answer elsewhere, at most.
    """
    asked = set(held_out)
    candidates = [fact for fact in all_facts() if fact not in asked]
    chosen: dict[Fact, None] = {}
    for fact in held_out:
        same = [other for other in candidates if other.territory == fact.territory]
        chosen |= dict.fromkeys(_draw(fact, same, same_territory))
        key = (fact.relation, fact.answer)
        same = [other for other in candidates if (other.relation, other.answer) == key]
        chosen |= dict.fromkeys(_draw(fact, same, same_answer))
    return tuple(chosen)


def _draw(fact: Fact, others: Iterable[Fact], number: int) -> list[Fact]:
    return sorted(others, key=lambda other: stateless_hash(fact.id, other.id))[:number]


def cldr_dataset(
    languages: Sequence[str] = (),
    seed: int = HELD_OUT_SEED,
    same_territory: int = 3,
    same_answer: int = 2,
) -> RetrievalDataset:
    """The held-out facts as questions, in one pool of all languages with their distractors.

    Args:
        languages: none named: all that have wordings.
        seed: of the held-out split; `read_cldr` leaves out that of `HELD_OUT_SEED`.
        same_territory: distractors of the same territory for each fact, at most.
        same_answer: distractors with the same answer for each fact, at most.

    Raises:
        UserError: there are no wordings in one of the languages.
    """
    languages = check_languages(languages)
    held_out = held_out_facts(seed)
    pool = (*held_out, *distractor_facts(held_out, same_territory, same_answer))
    right_answers = np.arange(len(languages)) * len(pool) + np.arange(len(held_out))[:, None]
    return RetrievalDataset(
        name="CLDR",
        languages=languages,
        queries=[question(fact, language) for language in languages for fact in held_out],
        query_ids=[f"{fact.id}:{language}" for language in languages for fact in held_out],
        query_language=np.repeat(np.arange(len(languages)), len(held_out)),
        passages=[passage(fact, language) for language in languages for fact in pool],
        passage_ids=[f"{fact.id}:{language}" for language in languages for fact in pool],
        passage_language=np.repeat(np.arange(len(languages)), len(pool)),
        relevant=np.tile(right_answers, (len(languages), 1)),
        question=np.tile(np.arange(len(held_out)), len(languages)),
    )
