"""The spec's `where`: the operator's own SQL, read just far enough to be sure that it is safe in a trigger.

Floor 0. The capture trigger evaluates `where` for every write of the application, as its definer (H25),
and no trigger fires when time passes. So it may only hold columns, constants, operators and immutable
built-in functions: no sub-select, no function of anybody's own, nothing that looks at the clock or the session.
Whether the functions named are immutable built-ins is asked of the catalog by `planning.findings`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""
    (?P<space>\s+)
  | (?P<comment>--|/\*)
  | (?P<string>[eEbBxXuU]?&?'(?:[^']|'')*')
  | (?P<dollar>\$)
  | (?P<quoted>"(?:[^"]|"")+")
  | (?P<word>[^\W\d]\w*)
  | (?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
  | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Words that make an expression depend on the clock or the session, or read other rows.
_FORBIDDEN = _words("""
    select with table values returning into union except intersect over filter collate
    current_timestamp current_date current_time localtime localtimestamp
    current_user session_user system_user user current_role current_catalog current_schema
""")
#: Words after which a parenthesis is no function call.
_SYNTAX = _words("""
    and or not in is null true false like ilike between similar to any all some array case when then else end
    cast as distinct from coalesce nullif greatest least row escape
""")


@dataclass(frozen=True, slots=True)
class Scope:
    """A `where` that was read. `words` are its identifiers (a superset of the columns), folded as SQL folds."""

    sql: str
    words: frozenset[str]
    functions: frozenset[str]


def read(sql: str) -> Scope:
    """Take `where` apart.

    Raises: ValueError, saying what in it can't stand in a trigger.
    """
    words: set[str] = set()
    functions: set[str] = set()
    depth = 0
    tokens = [match for match in _TOKEN.finditer(sql) if match.lastgroup is not None and match.lastgroup != "space"]
    for position, match in enumerate(tokens):
        kind, text = match.lastgroup, match.group()
        _refuse_token(kind, text)
        depth += (text == "(") - (text == ")")
        if depth < 0:
            raise ValueError("a parenthesis closes that was never opened")
        if kind not in {"word", "quoted"}:
            continue
        name = text[1:-1].replace('""', '"') if kind == "quoted" else text.lower()
        if kind == "word" and name in _FORBIDDEN:
            raise ValueError(f"`{text}` can't stand in it: no trigger fires when time or the session changes")
        following = tokens[position + 1].group() if position + 1 < len(tokens) else ""
        if following == "(" and not (kind == "word" and name in _SYNTAX):
            if position and tokens[position - 1].group() == ".":
                raise ValueError(f"`{name}` is called with a schema; only built-in functions may be used")
            functions.add(name)
        words.add(name)
    if depth:
        raise ValueError("a parenthesis is not closed")
    if not tokens:
        raise ValueError("it is empty; leave the key out instead")
    return Scope(sql, frozenset(words), frozenset(functions))


def _refuse_token(kind: str | None, text: str) -> None:
    if kind == "comment":
        raise ValueError("comments can't stand in it")
    if kind == "dollar" or text == ";":
        raise ValueError(f"`{text}` can't stand in it")
    if text == "'":
        raise ValueError("a quote is not closed")
