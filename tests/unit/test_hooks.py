"""Hooks by themselves: the spec's table, which moves are events, one POST, one command."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from migrator import events
from migrator import spec as specs
from migrator.events import EDGES, Channel, Event
from migrator.hooks import command, webhook
from migrator.lifecycle import TRANSITIONS
from migrator.spec import SpecInvalid
from tests.deployment import until
from tests.receiving import SECRET, Receiver, receiving
from tests.unit.test_spec import good

URL = {"url": "https://ops.example/hooks?token=canary", "secret_env": "HOOK_SECRET"}


def parsed(hooks: Any) -> specs.Spec:
    return specs.parse({**good(), "hooks": hooks}, "docs.toml")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


# The spec


def test_hooks_survive_the_freezer_and_say_only_their_host() -> None:
    spec = parsed({**URL, "command": ["/opt/page", "--now"], "on": ["ready", "paused"], "throttled_minutes": 5})
    assert specs.restore(json.loads(json.dumps(spec.dump()))) == spec
    hooks = spec.hooks
    assert hooks is not None
    assert hooks.channels == (Channel.URL, Channel.COMMAND)
    assert hooks.on == (Event.PAUSED, Event.READY)
    assert hooks.place(Channel.URL) == "https://ops.example"
    assert hooks.place(Channel.COMMAND) == "page"
    named = parsed({"url_env": "HOOK_URL", "secret_env": "HOOK_SECRET"}).hooks
    assert named is not None
    assert (named.channels, named.place(Channel.URL)) == ((Channel.URL,), "at $HOOK_URL")
    assert specs.parse(good(), "docs.toml").hooks is None


def test_everything_but_noise_is_told_by_default() -> None:
    hooks = parsed(URL).hooks
    assert hooks is not None
    assert set(hooks.on) == set(Event) - {Event.CUTOVER_TRIED}


@pytest.mark.parametrize(
    ("hooks", "place"),
    [
        ({**URL, "urls": 1}, "[hooks] urls"),
        ({**URL, "url": "ftp://ops.example"}, "[hooks] url"),
        ({**URL, "url": "https://"}, "[hooks] url"),
        ({**URL, "url": "https://me:canary@ops.example/"}, "[hooks] url"),
        ({**URL, "url": "https://ops.example/a b"}, "[hooks] url"),
        ({**URL, "url": "https://ops.example:99999/"}, "[hooks] url"),
        ({**URL, "url": "https://[canary]/"}, "[hooks] url"),
        ({**URL, "url": "https://me:canary\u2100@ops.example/"}, "[hooks] url"),
        ({**URL, "url": 7}, "[hooks] url"),
        ({"url": "https://ops.example"}, "[hooks] secret_env"),
        ({**URL, "secret_env": "sk-canary key"}, "[hooks] secret_env"),
        ({"command": "page docs"}, "[hooks] command"),
        ({"command": []}, "[hooks] command"),
        ({"command": [""]}, "[hooks] command"),
        ({"command": ["page", 1]}, "[hooks] command"),
        ({**URL, "on": "ready"}, "[hooks] on"),
        ({**URL, "on": []}, "[hooks] on"),
        ({**URL, "on": ["done"]}, "[hooks] on"),
        ({**URL, "throttled_minutes": 0}, "[hooks] throttled_minutes"),
        ({**URL, "throttled_minutes": "ten"}, "[hooks] throttled_minutes"),
        ({"url_env": "HOOK_URL"}, "[hooks] secret_env"),
        ({**URL, "url_env": "HOOK_URL"}, "[hooks] url_env"),
        ({"url_env": "https://ops.example/canary", "secret_env": "HOOK_SECRET"}, "[hooks] url_env"),
        ({"on": ["ready"]}, "[hooks] url"),
        ({}, "[hooks] url"),
        ("https://ops.example", "hooks"),
    ],
)
def test_what_is_wrong_with_hooks_is_said_by_its_place(hooks: Any, place: str) -> None:
    with pytest.raises(SpecInvalid) as caught:
        parsed(hooks)
    assert place in [problem.place for problem in caught.value.problems]
    assert "canary" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_only_moves_that_exist_are_events() -> None:
    assert all(new in TRANSITIONS[old] for old, new in EDGES)
    told_otherwise = {
        Event.THROTTLED, Event.NOT_CONVERGING, Event.VALIDATED, Event.CUTOVER_TRIED, Event.CUTOVER_FAILED,
        Event.SUSPECTS, *events.COSTS.values(),
    }  # fmt: skip
    assert set(EDGES.values()) == set(Event) - told_otherwise


# One POST


async def test_a_post_is_signed_with_its_time(receiver: Receiver) -> None:
    assert await webhook.post(receiver.url, "id-1", b"{}", SECRET) is None
    assert receiver.verified()
    assert not receiver.verified(b"another key")
    assert receiver.received[0][0]["webhook-id"] == "id-1"


def test_the_signature_is_the_one_that_standard_webhooks_fixes() -> None:
    """The example of its specification, with a `whsec_` secret."""
    made = webhook.headers(
        "msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}', "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        at=1614265330,
    )  # fmt: skip
    assert made["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert webhook.key_of("whsec_" + base64.b64encode(b"key").decode()) == b"key"
    assert webhook.key_of("whsec_no base64") == b"whsec_no base64"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(receiver: Receiver, status: int) -> None:
    receiver.status = status
    said = await webhook.post(receiver.url, "id-1", b"{}", SECRET)
    assert said == f"HTTP {status}, a redirect, which is not followed"
    assert len(receiver.received) == 1


async def test_proxies_and_passwords_of_the_environment_have_no_part_in_it(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password canary")
        monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
        assert await webhook.post(receiver.url, "id-1", b"{}", SECRET) is None
        assert proxy.received == []
    assert "authorization" not in receiver.received[0][0]


async def test_no_answer_ends_in_time_and_an_endless_one_is_not_read(receiver: Receiver) -> None:
    assert await webhook.post(f"{receiver.url}/endless", "id-1", b"{}", SECRET) is None
    receiver.hang = threading.Event()
    began = time.monotonic()
    assert await webhook.post(receiver.url, "id-1", b"{}", SECRET, seconds=0.3) == "no answer within 0.3 s"
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/canary", "https://127.0.0.1:1/?canary", "http://\udcff.example/canary"]
)
async def test_what_failed_never_names_the_url(url: str) -> None:
    said = await webhook.post(url, "id-1", b"{}", SECRET)
    assert said is not None
    assert "canary" not in said


async def test_tls_is_verified(receiver: Receiver) -> None:
    said = await webhook.post(receiver.url.replace("http:", "https:"), "id-1", b"{}", SECRET)
    assert said == "ConnectError"
    assert receiver.received == []


# One command


async def test_a_command_gets_the_event_and_none_of_our_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIGRATOR_DATABASE_URL", "postgresql://me:canary@db/shop")
    words = ["/bin/sh", "-c", f"cat > {tmp_path}/body; env > {tmp_path}/env; echo out; echo err >&2", "; touch x"]
    assert await command.run(words, b'{"event": "ready"}') is None
    assert (tmp_path / "body").read_bytes() == b'{"event": "ready"}'
    assert "canary" not in (tmp_path / "env").read_text()
    assert "PATH=" in (tmp_path / "env").read_text()


async def test_no_shell_reads_a_command(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    assert await command.run(["/bin/echo", f"; touch {marker}", f"$(touch {marker})"], b"{}") is None
    assert not marker.exists()


async def test_how_a_command_failed_is_said() -> None:
    assert await command.run(["/bin/sh", "-c", "exit 3"], b"{}") == "it ended with 3"
    assert await command.run(["/no/such/program"], b"{}") == "it could not be started: No such file or directory"
    assert await command.run(["/bin/true"], b"x" * 1_000_000) is None, "it need not read"


async def test_the_whole_group_of_a_slow_command_is_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 60 & echo $! > {pids}; echo $$ >> {pids}; trap '' TERM; wait"
    began = time.monotonic()
    assert await command.run(["/bin/sh", "-c", script], b"{}", seconds=0.5) == "it was killed after 0.5 s"
    assert time.monotonic() - began < 5
    for pid in map(int, pids.read_text().split()):
        await until(lambda pid=pid: asyncio.to_thread(lambda: not is_running(pid)), 5)


def is_running(pid: int) -> bool:
    """A zombie whose parent has not looked yet is dead."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
