"""[limits]: what may be spent, how fast and when, as a spec says it.

Floor 0. Promise: whatever may be changed while it runs is here, but `too_long`, which is frozen with the spec.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from migrator.windows import Window


def _window(value: object) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise ValueError('write it as "22:00-06:00 Asia/Shanghai", or a list of such texts')
    return tuple(str(Window.parse(text)) for text in texts)


class LimitsSpec(BaseModel):
    """[limits]: what may be spent, how fast and when. All but `too_long` can be changed live."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    #: The hard cap over all purposes: what could pass it is not sent.
    max_cost_usd: Annotated[
        float, Field(strict=False, ge=0, description="US dollars that may be spent in all, as in 50.0")
    ]
    #: Of all workers together; without, no limit but what the provider itself says.
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    #: Of all workers together; without, no limit but what the provider itself says.
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    #: When it may work, as in "22:00-06:00 Asia/Shanghai" or "mon-fri 22:00-06:00 Asia/Shanghai"; none means always.
    window: Annotated[tuple[str, ...], BeforeValidator(_window)] = ()
    #: What becomes of a text that is longer than the model takes.
    too_long: Literal["quarantine", "truncate", "fail"] = "quarantine"
