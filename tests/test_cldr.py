"""The facts made from CLDR: true, parallel, told in every language, split by a pure function."""

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from string import Formatter

import pytest
from babel import Locale

from jaxir.config import Source
from jaxir.data.cldr import (
    HELD_OUT_RELATIONS,
    HELD_OUT_TERRITORIES,
    LANGUAGES,
    RELATIONS,
    Fact,
    all_facts,
    held_out_facts,
    passage,
    question,
    read_cldr,
)
from jaxir.data.cldr_wordings import PASSAGES, QUESTIONS
from jaxir.errors import UserError

TRUE = {
    "JP:currency": "JPY",
    "FR:currency": "EUR",
    "BR:language": "pt",
    "EG:language": "ar",
    "GR:script": "Grek",
    "BG:script": "Cyrl",
    "FI:weekday": "0",  # Monday
    "JP:weekday": "6",  # Sunday
    "KE:city": "Africa/Nairobi",
    "HU:zone": "Europe_Central",
}


def rows(*languages):
    return list(read_cldr(Source(reader="cldr", languages=languages), Path(), "sentence"))


def digest():
    text = "\n".join(f"{row.id} {row.query} {row.passage}" for row in rows())
    return hashlib.sha256(text.encode()).hexdigest()


def test_facts_are_true():
    answers = {fact.id: fact.answer for fact in all_facts()}
    assert {name: answers.get(name) for name in TRUE} == TRUE


def test_there_are_enough_facts_relations_and_languages():
    by_relation = Counter(fact.relation for fact in all_facts())
    assert set(by_relation) == set(RELATIONS)
    assert len(LANGUAGES) >= 8
    assert min(by_relation.values()) > 100


def test_a_territory_with_several_time_zones_has_no_zone():
    relations = {fact.relation for fact in all_facts() if fact.territory == "US"}
    assert relations == {"currency", "language", "script", "weekday"}


@pytest.mark.parametrize(("table", "fields"), [(QUESTIONS, {"0"}), (PASSAGES, {"0", "1"})])
def test_wordings_are_complete_and_name_what_they_must(table, fields):
    assert tuple(table) == RELATIONS
    for by_language in table.values():
        assert tuple(by_language) == LANGUAGES
        for options in map(str.split, by_language.values(), "|" * len(LANGUAGES)):
            assert len(set(options)) == len(options) >= 2
            for option in options:
                names = [name for _, name, _, _ in Formatter().parse(option) if name is not None]
                assert sorted(names) == sorted(fields)


def test_all_wordings_are_used():
    for language in LANGUAGES:
        for relation in RELATIONS:
            for table, tell in ((QUESTIONS, question), (PASSAGES, passage)):
                used = {
                    re.escape(tell(fact, language))
                    for fact in all_facts()
                    if fact.relation == relation
                }
                for option in table[relation][language].split("|"):
                    pattern = re.escape(option).replace(r"\{0\}", ".+").replace(r"\{1\}", ".+")
                    assert any(re.fullmatch(pattern, text.replace("\\", "")) for text in used)


def test_names_are_in_the_language_of_the_text():
    kenya = Fact("KE", "currency", "KES")
    for language in LANGUAGES:
        locale = Locale(language)
        assert locale.territories["KE"] in question(kenya, language)
        assert locale.territories["KE"] in passage(kenya, language)
        assert locale.currencies["KES"] in passage(kenya, language)
        assert locale.currencies["KES"] not in question(kenya, language)


def test_questions_share_hardly_a_word_with_their_passages_but_the_name():
    for language in set(LANGUAGES) - {"zh"}:  # written without spaces
        territories = Locale(language).territories
        shared = total = 0
        for fact in all_facts():
            name = territories[fact.territory]
            asked, told = (
                {word for word in re.split(r"[\s.,:?()।؟]+", text.replace(name, "")) if word[2:]}
                for text in (question(fact, language), passage(fact, language))
            )
            shared, total = shared + len(asked & told), total + len(asked)
        assert shared / total < 0.1, language


def test_rows_are_parallel():
    groups = {}
    for row in rows():
        assert row.query_language == row.passage_language
        groups.setdefault(row.id, []).append(row.query_language)
    assert all(tuple(languages) == LANGUAGES for languages in groups.values())


def test_no_two_facts_have_one_passage():
    for language in LANGUAGES:
        told = Counter(passage(fact, language) for fact in all_facts())
        assert told.most_common(1)[0][1] == 1


def test_rows_come_in_the_source_s_languages():
    assert Counter(row.query_language for row in rows("tr", "hi")) == Counter(
        row.query_language for row in rows() if row.query_language in ("tr", "hi")
    )


def test_held_out_facts_are_left_out_and_their_territories_are_not():
    held_out, trained = held_out_facts(), {row.id for row in rows("en")}
    assert len(held_out) == HELD_OUT_TERRITORIES * HELD_OUT_RELATIONS
    assert len({fact.territory for fact in held_out}) == HELD_OUT_TERRITORIES
    assert trained == {fact.id for fact in all_facts()} - {fact.id for fact in held_out}
    seen = Counter(name.split(":")[0] for name in trained)
    assert min(seen[fact.territory] for fact in held_out) >= HELD_OUT_RELATIONS


def test_the_split_is_a_pure_function_of_the_seed():
    first = held_out_facts(3)
    held_out_facts.cache_clear()
    all_facts.cache_clear()
    assert held_out_facts(3) == first
    assert len(set(first) & set(held_out_facts(4))) < len(first) / 2


def test_another_process_makes_the_same_rows():
    code = f"import sys; sys.path[:0] = {sys.path!r}; import test_cldr; print(test_cldr.digest())"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    printed = subprocess.check_output(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, env=environment, text=True
    )
    assert printed.strip() == digest()


def test_a_language_without_wordings_is_named():
    with pytest.raises(UserError, match=r"not in language 'xx'; choose from ar, de"):
        rows("en", "xx")
    with pytest.raises(UserError, match="twice"):
        rows("en", "en")
