"""The demo's benchmark: right answers, distractors, and how far counting n-grams gets."""

from collections import Counter

import numpy as np
import pytest

from jaxir.benchmarks.cldr import cldr_dataset, distractor_facts
from jaxir.data.cldr import HELD_OUT_SEED, LANGUAGES, Fact, all_facts, held_out_facts, passage
from jaxir.errors import UserError


def fact_id(name: str) -> str:
    return name.rpartition(":")[0]


def test_every_query_has_its_own_fact_in_every_language_as_right_answers():
    made = cldr_dataset()
    facts = {fact.id: fact for fact in all_facts()}
    assert made.languages == LANGUAGES
    assert len(made.queries) == len(held_out_facts()) * len(LANGUAGES)
    for row, right in enumerate(made.relevant):
        fact = facts[fact_id(made.query_ids[row])]
        assert [made.passages[column] for column in right] == [
            passage(fact, language) for language in LANGUAGES
        ]
        assert list(made.passage_language[right]) == list(range(len(LANGUAGES)))
        assert made.query_ids[row].endswith(f":{LANGUAGES[made.query_language[row]]}")


def test_no_passage_but_the_right_ones_tells_the_fact():
    made = cldr_dataset(("en", "tr"))
    ids = [fact_id(name) for name in made.passage_ids]
    for name, right in zip(made.query_ids, made.relevant):
        assert {row for row, other in enumerate(ids) if other == fact_id(name)} == set(right)


def test_fewer_languages_are_a_part_of_the_whole():
    whole, part = cldr_dataset(), cldr_dataset(("zh", "ar"))
    texts = dict(zip(whole.passage_ids, whole.passages))
    assert part.passages == [texts[name] for name in part.passage_ids]
    assert set(part.passage_ids) == {name for name in texts if name[-2:] in ("zh", "ar")}
    assert list(part.passage_language) == sorted(part.passage_language)
    assert part.passage_ids[0].endswith(":zh")


def test_distractors_are_of_the_same_territory_or_the_same_answer():
    held_out = held_out_facts()
    distractors = distractor_facts(held_out, same_territory=2, same_answer=1)
    assert not set(distractors) & set(held_out)
    territories = Counter(fact.territory for fact in distractors)
    assert min(territories[fact.territory] for fact in held_out) >= 2
    told = Counter((fact.relation, fact.answer) for fact in distractors)
    possible = {(fact.relation, fact.answer) for fact in all_facts() if fact not in set(held_out)}
    wanted = {(fact.relation, fact.answer) for fact in held_out} & possible
    assert all(told[key] for key in wanted)
    assert distractor_facts(held_out, 0, 0) == ()


def test_distractors_of_one_fact():
    asked = Fact("CH", "currency", "CHF")
    made = distractor_facts([asked], same_territory=100, same_answer=100)
    assert {fact.id for fact in made} == {
        fact.id
        for fact in all_facts()
        if (fact.territory == "CH") != (fact.relation == "currency" and fact.answer == "CHF")
    }


def test_the_seed_decides():
    assert cldr_dataset(("en",)).query_ids == (cldr_dataset(("en",), seed=HELD_OUT_SEED).query_ids)
    assert cldr_dataset(("en",)).query_ids != (
        cldr_dataset(("en",), seed=HELD_OUT_SEED + 1).query_ids
    )


def test_counting_n_grams_does_not_solve_it():
    """A bag of n-grams finds the territory, not the relation, and nothing in another script."""
    made = cldr_dataset(("en", "ru"))
    texts = [*made.queries, *made.passages]
    column: dict[str, int] = {}
    counts = np.zeros((len(texts), 20_000))
    for row, text in enumerate(texts):
        for start in range(len(text) - 2):
            counts[row, column.setdefault(text[start : start + 3].lower(), len(column))] += 1
    counts /= np.linalg.norm(counts, axis=1, keepdims=True)
    scores = counts[: len(made.queries)] @ counts[len(made.queries) :].T
    rows = np.arange(len(scores))

    def mean_average_precision(passage_language):
        """The mean of 1 / rank, for one answer in the language; it comes last among its equals."""
        right = scores[rows, made.relevant[rows, passage_language]]
        among = made.passage_language == passage_language[:, None]
        return np.mean(1 / ((scores >= right[:, None]) & among).sum(axis=1))

    assert 0.2 < mean_average_precision(made.query_language) < 0.7
    assert mean_average_precision(1 - made.query_language) < 0.1


def test_a_language_without_wordings_is_named():
    with pytest.raises(UserError, match="not in language 'xx'"):
        cldr_dataset(("xx",))
