"""An endpoint as a spec names it: its address, and what the operator knows better of it than the package does.

Floor 0. Promise: a base URL that is let through names a host, holds no secret, and never ends in a request's own path.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

#: What people paste along with a base URL, from a page's sample; requests go to BASE/embeddings only.
ENDINGS = ("/chat/completions", "/embeddings")
_HOST = re.compile(r"[A-Za-z0-9._:-]+")


def clean_base_url(url: str) -> str:
    """Return a base URL without what belongs to a request.

    Raises: ValueError, saying what is wrong without quoting it.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not _HOST.fullmatch(parts.hostname or ""):
        raise ValueError("it must begin with https:// (or http://) and name a host")
    if parts.username or parts.password:
        raise ValueError("it holds a user or a password; keys come from the environment only")
    if parts.query or parts.fragment:
        raise ValueError("it holds a ? or a #; a base ends with its path, as in https://api.therouter.ai/v1")
    try:
        _ = parts.port
    except ValueError:
        raise ValueError("its port is no number from 0 to 65535") from None
    base = url.rstrip("/#?")
    for ending in ENDINGS:
        base = base.removesuffix(ending).rstrip("/")
    return base


_Limit = Annotated[int | None, Field(ge=1, le=10_000_000, description="a whole number from 1")]
_Switch = Annotated[bool | None, Field(description="true or false")]


class ProfileOverrides(BaseModel):
    """[to.profile_overrides]: what the operator knows better of this endpoint than the package's dated profile."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    #: Texts that one request may hold.
    max_texts: _Limit = None
    #: Tokens of the longest text that the model takes.
    max_text_tokens: _Limit = None
    #: Tokens of all texts of one request.
    max_request_tokens: _Limit = None
    #: false: the endpoint refuses `dimensions` (vLLM does for models that were not trained for it).
    send_dimensions: _Switch = None
    #: How vectors come back.
    encoding: Annotated[Literal["base64", "float"] | None, Field(description='"base64" or "float"')] = None
    #: other: Qwen's tokenizer only estimates this model's tokens.
    tokenizer: Annotated[Literal["qwen", "other"] | None, Field(description='"qwen" or "other"')] = None
    #: ignore: a gateway is known to answer with another name for the model that was asked for.
    model_echo: Annotated[Literal["check", "ignore"] | None, Field(description='"check" or "ignore"')] = None
    #: order: an endpoint is known to leave out every `index` and to keep the order.
    missing_index: Annotated[Literal["refuse", "order"] | None, Field(description='"refuse" or "order"')] = None
    #: any: the model's vectors are known to be of different lengths.
    norm: Annotated[Literal["steady", "any"] | None, Field(description='"steady" or "any"')] = None
    #: What this endpoint means by insufficient_quota: Model Studio a rate, OpenAI an empty account.
    insufficient_quota: Annotated[Literal["rate", "credit"] | None, Field(description='"rate" or "credit"')] = None


#: What is wrong with one of our own variables as the provider's key, and how to mend it.
OUR_OWN = (
    "it is no provider's, and what it holds is sent to no host that a spec names",
    "name the variable that holds the provider's key",
)


def is_our_own(variable: str) -> bool:
    """Say whether a variable is this tool's own, or one of libpq's secrets.

    Asked of spec files alone: what was frozen before is to be read for ever.
    """
    name = variable.upper()
    return name.startswith(("MIGRATOR_", "PGPASS", "PGSERVICE", "PGSSL"))
