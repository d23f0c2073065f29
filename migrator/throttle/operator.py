"""The operator's own two signals: one SELECT, and one URL, each of which gives a number.

Floor 1, its top. Promise: the SELECT runs read-only, alone, and shortly; the URL is asked without following a
redirect, for a bounded time and a bounded answer, and never while a transaction is open. Whatever they hold or answer
appears in no message (P11): a URL may carry a token.
"""

from __future__ import annotations

import asyncio
import json
import math

import httpx
import psycopg
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.state.connection import driver
from migrator.target.signals import Look, UnreadableError

#: Seconds for a whole answer: a signal that takes longer says nothing of now.
HTTP_SECONDS = 2.0
#: Bytes of an answer: a number, or {"value": n} with room for what a monitoring system adds.
_LONGEST_ANSWER_BYTES = 4096
_OK = 200


async def ask_sql(connection: AsyncConnection, query: str) -> Look:
    """Run the operator's SELECT in a transaction that is read-only and has a statement_timeout.

    Raises: UnreadableError.
    """
    raw = await driver(connection)
    try:
        # binary: sent by the extended protocol, which takes exactly one statement.
        cursor = await raw.cursor(binary=True).execute(query.encode())
        rows = await cursor.fetchmany(2) if cursor.description else []
    except psycopg.Error as error:
        # The server's message may quote a row; its SQLSTATE can't.
        raise UnreadableError(f"SQLSTATE {error.sqlstate or 'unknown'} ({type(error).__name__})") from None
    if len(rows) != 1 or len(rows[0]) != 1:
        raise UnreadableError("it does not return one row with one number")
    return Look(_number(rows[0][0]))


async def ask_http(url: str) -> Look:
    """Get the operator's URL.

    Raises: UnreadableError.
    """
    try:
        async with (
            asyncio.timeout(HTTP_SECONDS),
            httpx.AsyncClient(follow_redirects=False, timeout=HTTP_SECONDS) as http,
            http.stream("GET", url) as answer,
        ):
            if answer.status_code != _OK:
                raise UnreadableError(f"it answered {answer.status_code}")
            body = b""
            async for piece in answer.aiter_bytes(_LONGEST_ANSWER_BYTES):
                body += piece
                if len(body) > _LONGEST_ANSWER_BYTES:
                    raise UnreadableError(f"its answer is longer than {_LONGEST_ANSWER_BYTES} bytes")
    except TimeoutError:
        raise UnreadableError(f"no answer within {HTTP_SECONDS:.0f} s") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UnreadableError(f"no answer ({type(error).__name__})") from None
    return Look(_number(_parsed(body)))


def _parsed(body: bytes) -> object:
    try:
        value: object = json.loads(body)
    except (ValueError, RecursionError):
        raise UnreadableError('its answer is neither a number nor {"value": n}') from None
    return value.get("value") if isinstance(value, dict) else value


def _number(value: object) -> float:
    try:
        number = math.nan if isinstance(value, bool | str | bytes) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise UnreadableError("it gives no finite number")
    return number
