"""The text template: which columns of a row make the text that is embedded, and how.

Floor 0. Pure parsing; `target.relation` turns a template into the SQL expression that composes the text.
A row's text is composed in one place only, inside PostgreSQL, by that one expression: when a row is
read, when it is written back by compare-and-set, and in the capture trigger.
"""

from __future__ import annotations

from dataclasses import dataclass
from string import Formatter


class TemplateError(ValueError):
    """The template can't be read; the message says why."""


@dataclass(frozen=True, slots=True)
class Template:
    """A sequence of literals and column names; `parts` holds (is_column, value)."""

    parts: tuple[tuple[bool, str], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns named, each once, in order of appearance."""
        return tuple(dict.fromkeys(value for is_column, value in self.parts if is_column))

    @classmethod
    def parse(cls, text: str) -> Template:
        r"""Read `"{title}\n\n{body}"`; a literal brace is doubled, as in str.format.

        Raises: TemplateError, with the reason.
        """
        parts: list[tuple[bool, str]] = []
        try:
            pieces = list(Formatter().parse(text))
        except ValueError as error:
            raise TemplateError(f"its braces do not pair up ({error})") from None
        for literal, column, spec, conversion in pieces:
            if literal:
                parts.append((False, literal))
            if column is None:
                continue
            if not column or spec or conversion or "." in column or "[" in column:
                raise TemplateError("only plain column names may stand in braces, as in {title}")
            parts.append((True, column))
        if not any(is_column for is_column, _ in parts):
            raise TemplateError("it names no column; write column names in braces, as in {title}")
        return cls(tuple(parts))
