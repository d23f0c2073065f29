"""A webhook: one signed POST, in the form that Standard Webhooks fixes (https://www.standardwebhooks.com).

Floor 2. Promise: nothing is sent unsigned; no redirect is followed; TLS is verified; of the answer nothing is read but
its status; all of it takes SECONDS at most. It goes to the URL's host itself: no proxy and no .netrc of the worker's
environment has a part in it. What is returned names neither the URL nor the key.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import time

import migrator

#: Seconds that telling may take, from the look-up of the host's name to the answer's status.
SECONDS = 10.0
_PREFIX = "whsec_"


def key_of(secret: str) -> bytes:
    """Return the key that a secret stands for: base64 behind `whsec_`, as it is otherwise."""
    if secret.startswith(_PREFIX):
        try:
            return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            pass
    return secret.encode()


def headers(event_id: str, body: bytes, secret: str, *, at: float) -> dict[str, str]:
    """Return what a receiver verifies: HMAC-SHA256 of `id.timestamp.body`, so that neither can be exchanged."""
    stamp = str(int(at))
    signed = hmac.digest(key_of(secret), f"{event_id}.{stamp}.".encode() + body, hashlib.sha256)
    return {
        "content-type": "application/json",
        "user-agent": f"pgvector-migrator/{migrator.__version__}",
        "webhook-id": event_id,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
    }


async def post(url: str, event_id: str, body: bytes, secret: str, *, seconds: float = SECONDS) -> str | None:
    """Send it once; returns None where it was taken, else why it was not."""
    import httpx  # a quarter of a second to load, and most verbs tell nobody anything

    # Whom to trust is still the operator's to say (SSL_CERT_FILE), as for the provider.
    verified = httpx.create_ssl_context()
    try:
        async with (
            asyncio.timeout(seconds),
            httpx.AsyncClient(timeout=seconds, follow_redirects=False, trust_env=False, verify=verified) as http,
            http.stream("POST", url, content=body, headers=headers(event_id, body, secret, at=time.time())) as answer,
        ):
            # The body is left where it is: it may be endless, and nothing in it is wanted.
            status, redirected = answer.status_code, answer.has_redirect_location
    except TimeoutError:
        return f"no answer within {seconds:g} s"
    except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
        return type(error).__name__  # its words may quote the URL
    if redirected:
        return f"HTTP {status}, a redirect, which is not followed"
    return None if 200 <= status < 300 else f"HTTP {status}"  # noqa: PLR2004 - what is taken
