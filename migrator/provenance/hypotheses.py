"""Hypotheses: what else the old vectors may have been made from, in the order in which it is cheap to ask.

Floor 2. Pure. A hypothesis turns a sampled row into the text that would have been embedded, or into None where it says
nothing about that row. They come in tiers; whoever tries them stops after the tier that explains everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import permutations

from migrator.generation import Generation, Side
from migrator.provenance.sample import Sampled
from migrator.provider import tokens

#: What people put between columns, the most usual first.
SEPARATORS = ("\n\n", "\n", " ", ": ", ", ", ". ", " - ", "")
#: Separators tried with columns in another order, where every one of them is multiplied by the orders.
_FEW_SEPARATORS = ("\n\n", "\n", " ", ": ", "")
#: Columns of one template that are tried in every order.
_MOST_COLUMNS = 3
#: Lengths at which clients were seen to cut: LangChain, LlamaIndex, Dify and RAGFlow clip by characters or tokens of
#: these sizes, or by one that an operator chose in round figures.
CUT_CHARACTERS = (256, 500, 512, 1000, 1024, 1500, 2000, 2048, 3000, 4000, 4096, 6000, 8000, 8192)
CUT_TOKENS = (256, 512, 1024, 2048, 4096, 8192)


class Kind(StrEnum):
    """What a hypothesis is about."""

    MODEL = "model"
    TEMPLATE = "template"
    WHITESPACE = "whitespace"
    TRUNCATED = "truncated"


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One guess. `label` is for people and quotes no row; `compose` makes the text, `side` says who embeds it."""

    kind: Kind
    label: str
    do: str
    compose: Callable[[Sampled], str | None]
    side: Side = Side.FROM


def tiers(spec_template: str, names: Sequence[str], new: Generation) -> Iterator[list[Hypothesis]]:
    """Return the tiers: the new model, the spec's columns in their order, white space, truncation, every order.

    None is empty: a table with one text column has no other order, and may have no other template.
    """
    yield from filter(None, _every_tier(spec_template, names, new))


def _every_tier(spec_template: str, names: Sequence[str], new: Generation) -> Iterator[list[Hypothesis]]:
    yield [_new_model(new)]
    seen = {spec_template}
    yield list(_templates(seen, _plain_templates(names)))
    yield list(_whitespace())
    yield [_cut_at_characters(length) for length in CUT_CHARACTERS]
    if tokens.exact_counter() is not None:
        yield [_cut_at_tokens(length) for length in CUT_TOKENS]
    yield list(_templates(seen, _other_orders(names)))


def _new_model(new: Generation) -> Hypothesis:
    do = (
        f"Find who writes {new} into the column that readers search as the old generation, and stop it; embed those "
        "rows again with the old model, or accept that they are wrong until the cutover and start with "
        "--skip-provenance REASON"
    )
    return Hypothesis(Kind.MODEL, f"the vector is {new}'s", do, lambda row: row.body, Side.TO)


def _plain_templates(names: Sequence[str]) -> Iterator[tuple[Sequence[str], str]]:
    for name in names:
        yield (name,), ""
    for count in range(2, min(len(names), _MOST_COLUMNS) + 1):
        for separator in SEPARATORS:
            yield names[:count], separator


def _other_orders(names: Sequence[str]) -> Iterator[tuple[Sequence[str], str]]:
    for count in range(2, min(len(names), _MOST_COLUMNS) + 1):
        for order in permutations(names, count):
            for separator in _FEW_SEPARATORS:
                yield order, separator


def _templates(seen: set[str], wanted: Iterator[tuple[Sequence[str], str]]) -> Iterator[Hypothesis]:
    for order, separator in wanted:
        template = separator.replace("{", "{{").replace("}", "}}").join(f"{{{name}}}" for name in order)
        if template in seen:
            continue
        seen.add(template)
        shown = template.replace("\n", "\\n")
        do = f'Write text = "{shown}" under [target], then plan again'
        yield Hypothesis(Kind.TEMPLATE, f'the text is "{shown}"', do, _joined(tuple(order), separator))


def _joined(order: Sequence[str], separator: str) -> Callable[[Sampled], str | None]:
    return lambda row: _other(separator.join(row.pieces[name] for name in order), row)


def _whitespace() -> Iterator[Hypothesis]:
    do = (
        "The application changed the text before it embedded it; the new vectors will be made from the text as it is "
        "stored. If that is not wanted, store the changed text in a column and name it in [target] text; else start "
        "with --skip-provenance REASON"
    )
    changes: dict[str, Callable[[str], str]] = {
        "line breaks became spaces": lambda text: text.replace("\n", " "),
        "every run of white space became one space": lambda text: " ".join(text.split()),
        "white space was cut off at both ends": str.strip,
        "it was lower case": str.lower,
    }
    for label, change in changes.items():
        yield Hypothesis(Kind.WHITESPACE, label, do, _changed(change))


def _changed(change: Callable[[str], str]) -> Callable[[Sampled], str | None]:
    return lambda row: _other(change(row.body), row)


_CUT_DO = (
    "The old vectors know only the beginning of long texts; the new ones will be made from whole texts up to the "
    "provider's limit, which mends it. Start with --skip-provenance REASON if that is what you want"
)


def _cut_at_characters(length: int) -> Hypothesis:
    return Hypothesis(
        Kind.TRUNCATED,
        f"the text was cut after {length:,} characters",
        _CUT_DO,
        lambda row: _other(row.body[:length], row),
    )


def _cut_at_tokens(length: int) -> Hypothesis:
    return Hypothesis(
        Kind.TRUNCATED, f"the text was cut after {length:,} tokens", _CUT_DO, lambda row: _cut(row, length)
    )


def _cut(row: Sampled, length: int) -> str | None:
    counter = tokens.exact_counter()
    if counter is None or counter(row.body) <= length + tokens.END_MARKS:
        return None
    low, high = 0, len(row.body)
    while low < high:
        middle = (low + high + 1) // 2
        if counter(row.body[:middle]) <= length + tokens.END_MARKS:
            low = middle
        else:
            high = middle - 1
    return _other(row.body[:low], row)


def _other(text: str, row: Sampled) -> str | None:
    """Return a text that differs from the spec's, and is one: the same text again explains nothing."""
    return text if text.strip() and text != row.body else None
