"""Parallel questions and answers made on the fly from CLDR, through Babel: the demo's data.

A fact is a (territory, relation) with an answer: the currency of Japan, the script of Serbia. It
is worded in every language of `cldr_wordings`, so rows are parallel by construction and the fact's
name is the id of its parallel group. Some facts of some territories are held out of training; the
other facts of the same territories are not.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path

from babel import Locale
from babel.core import UnknownLocaleError, get_global
from babel.languages import get_official_languages
from babel.numbers import get_territory_currencies

from jaxir.config import Source
from jaxir.data.checks import choose_languages
from jaxir.data.cldr_wordings import PASSAGES, QUESTIONS
from jaxir.data.hashing import hash_words
from jaxir.data.rows import Row, RowMaker

RELATIONS = tuple(QUESTIONS)
LANGUAGES = tuple(QUESTIONS["currency"])
HELD_OUT_SEED = 0
HELD_OUT_TERRITORIES = 60
HELD_OUT_RELATIONS = 2  # of each of those territories

_TODAY = date(2025, 1, 1)  # currencies come and go: a fixed day keeps the facts fixed


@dataclass(frozen=True)
class Fact:
    """A relation of a territory and its answer in CLDR; equal answers have equal codes."""

    territory: str
    relation: str
    answer: str

    @property
    def id(self) -> str:
        """The fact's name, and that of its parallel group."""
        return f"{self.territory}:{self.relation}"


def _first_weekday(language: str, territory: str) -> str | None:
    try:
        return str(Locale(language, territory).first_week_day)
    except UnknownLocaleError:  # Babel knows weeks by locale, not by territory
        return None


def _answers(territory: str) -> dict[str, str | None]:
    """Every relation's answer for one territory, as a code; None where CLDR has no one answer."""
    likely_subtags = get_global("likely_subtags")  # those of English are the general default
    language, script, _ = likely_subtags.get(f"und_{territory}", likely_subtags["und"]).split("_")
    zones = get_global("territory_zones").get(territory, ())
    zone = zones[0] if len(zones) == 1 else None
    return {
        "currency": next(iter(get_territory_currencies(territory, _TODAY)), None),
        "language": next(iter(get_official_languages(territory, de_facto=True)), None),
        "script": script,
        "city": zone,
        "zone": zone and get_global("meta_zones").get(zone),
        "weekday": _first_weekday(language, territory),
    }


def _city(locale: Locale, zone: str) -> str:
    return locale.time_zones.get(zone, {}).get("city") or zone.split("/")[-1].replace("_", " ")


def _zone(locale: Locale, zone: str) -> str | None:
    names = locale.meta_zones.get(zone, {}).get("long", {})
    return names.get("generic") or names.get("standard")


_NAMES: dict[str, Callable[[Locale, str], str | None]] = {
    "currency": lambda locale, code: locale.currencies.get(code),
    "language": lambda locale, code: locale.languages.get(code),
    "script": lambda locale, code: locale.scripts.get(code),
    "city": _city,
    "zone": _zone,
    "weekday": lambda locale, day: locale.days["format"]["wide"][int(day)],
}


@cache
def _names(fact: Fact, language: str) -> tuple[str | None, str | None]:
    locale = Locale(language)
    return locale.territories.get(fact.territory), _NAMES[fact.relation](locale, fact.answer)


@cache
def all_facts() -> tuple[Fact, ...]:
    """Every fact that has names in all languages, in a fixed order."""
    territories = sorted(
        set(get_global("territory_zones")) & set(get_global("territory_currencies"))
    )
    facts = [
        Fact(territory, relation, answer)
        for territory in territories
        for relation, answer in _answers(territory).items()
        if answer
    ]
    return tuple(fact for fact in facts if all(_has_wording(fact, code) for code in LANGUAGES))


def _has_wording(fact: Fact, language: str) -> bool:
    territory, answer = _names(fact, language)
    return bool(territory and answer) and territory != answer


@cache
def held_out_facts(seed: int = HELD_OUT_SEED) -> tuple[Fact, ...]:
    """Facts held out of training: a few of some territories, whose other facts are trained on.

    A pure function of the seed.
    """
    by_territory: dict[str, list[Fact]] = {}
    for fact in all_facts():
        by_territory.setdefault(fact.territory, []).append(fact)
    rich = [name for name, facts in by_territory.items() if len(facts) >= 2 * HELD_OUT_RELATIONS]
    chosen = sorted(rich, key=lambda name: hash_words(seed, name))[:HELD_OUT_TERRITORIES]
    return tuple(
        fact
        for name in sorted(chosen)
        for fact in sorted(by_territory[name], key=lambda fact: hash_words(seed, fact.id))[
            :HELD_OUT_RELATIONS
        ]
    )


def _word(wordings: dict[str, dict[str, str]], side: str, fact: Fact, language: str) -> str:
    templates = wordings[fact.relation][language].split("|")
    template = templates[hash_words(side, fact.id, language) % len(templates)]
    return template.format(*_names(fact, language))


def question(fact: Fact, language: str) -> str:
    """The fact's question in a language, in a wording chosen by a hash of the two."""
    return _word(QUESTIONS, "question", fact, language)


def passage(fact: Fact, language: str) -> str:
    """The sentence that states the fact in a language, its wording chosen likewise."""
    return _word(PASSAGES, "passage", fact, language)


def check_languages(languages: Sequence[str]) -> tuple[str, ...]:
    """The languages, or all that have wordings if none is named.

    Raises:
        UserError: there are no wordings in one of them, or one is named twice.
    """
    return choose_languages(languages, LANGUAGES, "wordings of CLDR facts")


def read_cldr(source: Source, directory: Path, make: RowMaker) -> Iterator[Row]:
    """The training facts in each of the source's languages (none named: all).

    A reader as in `jaxir.data.readers`. Nothing is read, so nothing can be bad; a passage is one
    sentence, whatever its unit.

    Raises:
        UserError: there are no wordings in one of the languages.
    """
    del directory, make
    held_out = set(held_out_facts())
    for language in check_languages(source.languages):
        for fact in all_facts():
            if fact not in held_out:
                yield Row(
                    question(fact, language),
                    passage(fact, language),
                    language,
                    language,
                    id=fact.id,
                    where=f"CLDR fact {fact.id} in {language}",
                )
