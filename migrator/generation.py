"""A generation: one way to embed, written MODEL@DIMS everywhere (`qwen/text-embedding-v4@1024`).

Floor 0. Vectors of two generations are not comparable, even where model and dimensions look alike:
the same model at other dimensions is another generation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

_PATTERN = re.compile(r"^(?P<model>[^\s@'\"\\]{1,200})@(?P<dims>[1-9][0-9]{0,4})$")


class Side(StrEnum):
    """Which of a migration's two generations is meant, whatever column holds it at the moment."""

    FROM = "from"
    TO = "to"

    @property
    def other(self) -> Side:
        """The opposite side."""
        return Side.TO if self is Side.FROM else Side.FROM


@dataclass(frozen=True, slots=True)
class Generation:
    """A model and the dimensions it is asked for. `dims` counts components per vector."""

    model: str
    dims: int

    def __str__(self) -> str:
        return f"{self.model}@{self.dims}"

    def is_same_model(self, other: Generation) -> bool:
        """Say whether both are of one model, whatever vendor's prefix it goes by and whatever its dimensions."""
        return self.model.rsplit("/", 1)[-1] == other.model.rsplit("/", 1)[-1]

    @classmethod
    def parse(cls, text: str) -> Generation:
        """Read MODEL@DIMS.

        Raises: ValueError, when it is not of that form.
        """
        match = _PATTERN.match(text)
        if match is None:
            raise ValueError(text)
        return cls(match["model"], int(match["dims"]))
