"""Parallel questions and answers made on the fly from CLDR, through Babel: the demo's data.

A fact is a (territory, relation) with an answer: the currency of Japan, the script of Serbia. Every
fact is told in every language of the wordings, so rows are parallel by construction and a fact's name
is the id of its parallel group. Some facts of some territories are held out of training; the other
facts of the same territories are not.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import cache

from babel import Locale
from babel.core import UnknownLocaleError, get_global
from babel.languages import get_official_languages
from babel.numbers import get_territory_currencies

from jaxir.data.cldr_wordings import PASSAGES, QUESTIONS

RELATIONS = tuple(QUESTIONS)
LANGUAGES = tuple(QUESTIONS["currency"])
HELD_OUT_SEED = 0
HELD_OUT_TERRITORIES = 60
HELD_OUT_RELATIONS = 2  # of each of those territories

_TODAY = date(2025, 1, 1)  # currencies come and go: a fixed day keeps the facts fixed


@dataclass(frozen=True)
class Fact:
    """One thing CLDR knows of a territory; `answer` is a code, equal for equal answers."""

    territory: str
    relation: str
    answer: str

    @property
    def id(self) -> str:
        return f"{self.territory}:{self.relation}"


def stateless_hash(*words: object) -> int:
    """A 64-bit number that depends on nothing but the words."""
    text = "\x1f".join(map(str, words))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _currencies(territory: str) -> dict[str, str]:
    """The currency of a territory, since when it has it, and the one before."""
    current = get_territory_currencies(territory, _TODAY, include_details=True)[:1]
    earlier = get_territory_currencies(
        territory, date(1900, 1, 1), _TODAY, non_tender=False, include_details=True
    )
    answers = {"currency": entry["currency"] for entry in current}
    answers |= {"year": str(entry["from"].year) for entry in current if entry["from"]}
    ended = [entry for entry in earlier if entry["to"] and entry["to"] < _TODAY]
    last = max(ended, key=lambda entry: entry["to"], default=None)
    if last and last["currency"] != answers.get("currency"):
        answers["former"] = last["currency"]
    return answers


def _answers(territory: str) -> dict[str, str]:
    """Every relation's answer for one territory, as a code; what CLDR does not tell is left out."""
    answers = _currencies(territory)
    official = get_official_languages(territory, de_facto=True)[:1]
    answers |= {"language": language for language in official}
    likely = get_global("likely_subtags").get(f"und_{territory}")
    if likely:
        language, script = likely.split("_")[:2]
        answers["script"] = script
        try:
            answers["weekday"] = str(Locale(language, territory).first_week_day)
        except UnknownLocaleError:
            pass  # Babel has no locale of that territory, so it cannot tell how weeks begin there
    zones = get_global("territory_zones").get(territory, ())
    if len(zones) == 1:  # with several zones there is no one answer
        answers["city"] = zones[0]
        answers |= {"zone": zone for zone in [get_global("meta_zones").get(zones[0])] if zone}
    return answers


def _city(locale: Locale, zone: str) -> str:
    return locale.time_zones.get(zone, {}).get("city") or zone.split("/")[-1].replace("_", " ")


def _zone(locale: Locale, zone: str) -> str | None:
    names = locale.meta_zones.get(zone, {}).get("long", {})
    return names.get("generic") or names.get("standard")


_NAMES: dict[str, Callable[[Locale, str], str | None]] = {
    "currency": lambda locale, code: locale.currencies.get(code),
    "former": lambda locale, code: locale.currencies.get(code),
    "year": lambda locale, year: year,
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
    """Every fact that can be told in all languages, in a fixed order."""
    territories = sorted(
        set(get_global("territory_zones")) & set(get_global("territory_currencies"))
    )
    facts = [
        Fact(territory, relation, answer)
        for territory in territories
        for relation, answer in sorted(_answers(territory).items())
    ]
    return tuple(fact for fact in facts if all(all(_names(fact, name)) for name in LANGUAGES))


@cache
def held_out_facts(seed: int = HELD_OUT_SEED) -> tuple[Fact, ...]:
    """Facts kept from training: a few of some territories, whose other facts are trained on.

    A pure function of the seed.
    """
    by_territory: dict[str, list[Fact]] = {}
    for fact in all_facts():
        by_territory.setdefault(fact.territory, []).append(fact)
    rich = [name for name, facts in by_territory.items() if len(facts) >= 2 * HELD_OUT_RELATIONS]
    chosen = sorted(rich, key=lambda name: stateless_hash(seed, name))[:HELD_OUT_TERRITORIES]
    return tuple(
        fact
        for name in sorted(chosen)
        for fact in sorted(by_territory[name], key=lambda fact: stateless_hash(seed, fact.id))[
            :HELD_OUT_RELATIONS
        ]
    )


def _tell(wordings: dict[str, dict[str, str]], side: str, fact: Fact, language: str) -> str:
    options = wordings[fact.relation][language].split("|")
    option = options[stateless_hash(side, fact.id, language) % len(options)]
    return option.format(*_names(fact, language))


def question(fact: Fact, language: str) -> str:
    """The fact's question in a language; which wording is a stateless hash of the two."""
    return _tell(QUESTIONS, "question", fact, language)


def passage(fact: Fact, language: str) -> str:
    """The sentence that states the fact in a language, chosen likewise."""
    return _tell(PASSAGES, "passage", fact, language)
