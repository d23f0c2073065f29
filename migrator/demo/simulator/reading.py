"""Reading a request: who asks, for what, and whether it is within the limits of one request.

Floor 4. Promise: any violation refuses the whole request, in the dialect's own words, before anything is worked or
billed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from migrator.demo.simulator.account import Account
from migrator.demo.simulator.backends import Backend
from migrator.demo.simulator.dialects import Dialect
from migrator.demo.simulator.refusals import Refused
from migrator.provider import tokens

#: A text with this word is refused as moderated content, and makes the whole request fail with it.
POISON = "POISON-CONTENT"
#: A text with this word makes the server fail, always.
CRASH = "CRASH-SERVER"
#: What a model has that is asked for no dimensions.
_DEFAULT_DIMS = 1024
_OLD = "text-embedding-v3"
#: What an international region has of it.
_OLD_ABROAD = frozenset({1024, 768, 512})


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that can be answered. `counts`: the tokens that each text is billed."""

    requested: str
    model: str
    texts: list[str]
    dims: int
    base64: bool
    counts: list[int]


def authorised(authorization: str, account: Account, dialect: Dialect) -> str:
    """Return the key of the request.

    Raises: Refused.
    """
    scheme, _, key = authorization.partition(" ")
    given = scheme.lower() == "bearer" and bool(key)
    if (dialect.needs_key and not given) or (account.keys is not None and key not in account.keys):
        raise Refused("bad_key")
    if account.behaviour.account != "good":
        raise Refused(account.behaviour.account)
    return key if given else ""


def texts_of(body: Any) -> list[str]:
    """Return the texts of a body.

    Raises: Refused.
    """
    if not isinstance(body, dict):
        raise Refused("no_json")
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if texts is None or texts == []:
        raise Refused("no_texts")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise Refused("contents")
    return texts


def read(body: Any, account: Account, backend: Backend, dialect: Dialect, *, elsewhere: bool) -> Asked:
    """Return what is asked for.

    Raises: Refused.
    """
    behaviour, texts = account.behaviour, texts_of(body)
    requested = str(body.get("model", ""))
    known = _models(backend, behaviour.region)
    # With "any model" the newest is served: backends list them oldest first.
    model = requested.rsplit("/", 1)[-1] if not dialect.any_model else (behaviour.answer_with or list(known)[-1])
    if model not in known:
        raise Refused("unknown_model", given=requested)
    dims = _dims(body, known[model], behaviour.dimensions or dialect.dimensions, requested)
    encoding = body.get("encoding_format", "float")
    if encoding not in {"float", "base64"} or (encoding == "base64" and behaviour.base64 == "refused"):
        raise Refused("encoding")
    region = behaviour.second_region if elsewhere else None
    max_texts = (region and region.max_texts) or behaviour.max_texts or dialect.max_texts
    if len(texts) > max_texts:
        raise Refused("too_many_texts", given=str(len(texts)), limit=max_texts)
    counts = _counted(texts, account, dialect, model)
    moderates = dialect.moderates and behaviour.moderation
    if region is not None and region.moderation is not None:
        moderates = region.moderation
    if moderates and any(POISON in text for text in texts):
        raise Refused("moderated")
    if any(CRASH in text for text in texts):
        raise Refused("crash")
    return Asked(requested, model, texts, dims, encoding == "base64" and behaviour.base64 == "honoured", counts)


def _models(backend: Backend, region: str) -> dict[str, frozenset[int]]:
    known = dict(backend.models())
    if region == "singapore" and _OLD in known:
        known[_OLD] = _OLD_ABROAD
    return known


def _dims(body: Any, allowed: frozenset[int], mode: Literal["honoured", "ignored", "refused"], model: str) -> int:
    default = max(each for each in allowed if each <= _DEFAULT_DIMS)
    wanted = body.get("dimensions")
    if wanted is None or mode == "ignored":
        return default
    if mode == "refused":
        raise Refused("matryoshka", given=model)
    if isinstance(wanted, bool) or wanted not in allowed:
        raise Refused("dimensions")
    return int(wanted)


def _counted(texts: Sequence[str], account: Account, dialect: Dialect, model: str) -> list[int]:
    """Return each text's tokens, refusing or cutting what is too long."""
    behaviour = account.behaviour
    ratio = behaviour.v3_token_ratio if model == _OLD else 1.0
    counts = [math.ceil(count * ratio) for count in tokens.count_all(texts)[0]]
    limit = behaviour.max_text_tokens
    for text, count in zip(texts, counts, strict=True):
        if (not text and not dialect.takes_empty) or (count > limit and not dialect.truncates):
            raise Refused("length", given=str(count), limit=limit)
    counts = [min(count, limit) for count in counts]
    total = behaviour.max_request_tokens
    if total is not None and sum(counts) > total:
        raise Refused("length", given=str(sum(counts)), limit=total)
    return counts
