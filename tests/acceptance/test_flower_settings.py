"""workers/flowerconfig.py: who may log in, who may change something, what is kept, what is refused."""

from __future__ import annotations

import re
import signal
import socket
import time

import httpx
import pytest
from flower.urls import handlers

from migrator.demo import processes
from tests.acceptance.flower import LOGIN, begin, push, spawn, tasks_of
from tests.deployment import Deployment

AUTH = {"MIGRATOR_FLOWER_AUTH": ":".join(LOGIN)}
OPEN = {"FLOWER_UNAUTHENTICATED_API": "true"}
#: Every address of the API that changes something.
CHANGING = sorted(
    re.sub(r"\(.*\)", "w1@test", each[0]).removeprefix("/api/")
    for each in handlers
    if isinstance(each, tuple) and each[0].startswith("/api/") and "post" in vars(each[1])
)


def ended(deployed: Deployment, env: dict[str, str], *options: str) -> list[str]:
    """What Flower says that did not start."""
    log = deployed.home / "flower.log"
    log.unlink(missing_ok=True)
    assert spawn(deployed, processes.free_port(), *options, env=env).wait(60) == 2
    return log.read_text().strip().splitlines()


def test_a_taken_port_is_three_sentences_and_not_a_traceback(deployed: Deployment) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for env, options in (({"MIGRATOR_FLOWER_PORT": port}, []), ({}, [f"--port={port}"])):
            said = ended(deployed, env, *options)
            assert len(said) == 3, said
            assert said[0].startswith(f"Flower can't listen on 127.0.0.1:{port}:")
            assert "MIGRATOR_FLOWER_PORT" in said[2]
        # The port that the command line names is the one that counts, whatever stands elsewhere.
        free = processes.free_port()
        process = spawn(deployed, int(port), f"--port={free}")
        deployed.wait(lambda: processes.accepts(free), process, "flower on the port of its command line")


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"MIGRATOR_FLOWER_AUTH": "nobody"}, "MIGRATOR_FLOWER_AUTH can't be used: it must be user:password."),
        ({"MIGRATOR_FLOWER_AUTH_FILE": "/nowhere"}, "MIGRATOR_FLOWER_AUTH_FILE can't be used: /nowhere can't be read"),
        ({"MIGRATOR_FLOWER_READ_ONLY": "perhaps"}, "MIGRATOR_FLOWER_READ_ONLY can't be used: it must be 1 or 0."),
        ({"MIGRATOR_FLOWER_PORT": "http"}, "MIGRATOR_FLOWER_PORT can't be used: it must be a number."),
    ],
)
def test_what_can_t_be_used_is_said_before_it_starts(env: dict[str, str], words: str, deployed: Deployment) -> None:
    said = ended(deployed, env)
    assert len(said) == 3, said
    assert said[0].startswith(words)
    assert "nobody" not in "".join(said)


def test_without_a_login_nothing_can_be_changed(deployed: Deployment) -> None:
    """On loopback, and the API closed; where somebody opens that, it is read-only."""
    _, url = begin(deployed, env={})
    assert httpx.get(f"{url}/api/tasks", timeout=20).status_code == 401
    assert httpx.get(f"{url}/tasks", timeout=20).status_code == 200
    _, url = begin(deployed, env=OPEN)
    assert httpx.get(f"{url}/api/tasks", timeout=20).status_code == 200
    refused(url)


def refused(url: str) -> None:
    assert len(CHANGING) > 12, CHANGING
    for path in CHANGING:
        answer = push(url, path)
        assert (answer.status_code, answer.text) == (403, "Read only mode is enabled"), path


def test_read_only_is_asked_for_by_a_variable_or_as_flower_itself_is(deployed: Deployment) -> None:
    for env, options in (
        ({**AUTH, "MIGRATOR_FLOWER_READ_ONLY": "1"}, []),
        ({**AUTH, "FLOWER_READ_ONLY": "true"}, []),
        (AUTH, ["--read_only=true"]),
    ):
        _, url = begin(deployed, *options, env=env)
        refused(url)
    deployed.worker()
    page = httpx.get(f"{url}/worker/w1@test", auth=LOGIN, timeout=20).text
    assert "Shut Down" not in page, "what would be refused is not offered"


def test_a_login_is_asked_for_and_may_stand_in_a_file(deployed: Deployment) -> None:
    """Whoever logs in may push buttons; /healthcheck and /metrics name no migration and are open, as in any Flower."""
    file = deployed.home / "login"
    file.write_text(":".join(LOGIN) + "\n")
    _, url = begin(deployed, env={"MIGRATOR_FLOWER_AUTH_FILE": str(file)})
    for path in ("tasks", "api/tasks", "worker/w1@test", "broker"):
        assert httpx.get(f"{url}/{path}", timeout=20).status_code == 401, path
        assert httpx.get(f"{url}/{path}", auth=("operator", "wrong"), timeout=20).status_code == 401, path
    assert httpx.get(f"{url}/api/tasks", auth=LOGIN, timeout=20).status_code == 200
    assert push(url, "task/revoke/nothing").status_code == 200
    for path in ("healthcheck", "metrics"):
        assert httpx.get(f"{url}/{path}", timeout=20).status_code == 200, path


def test_a_network_address_without_a_login_is_warned_of(deployed: Deployment) -> None:
    begin(deployed, env={"MIGRATOR_FLOWER_ADDRESS": "0.0.0.0"})  # noqa: S104 - what is warned of
    said = (deployed.home / "flower.log").read_text()
    assert "Flower listens on 0.0.0.0 without a login" in said
    assert "MIGRATOR_FLOWER_AUTH=user:password" in said


def test_what_flower_s_own_variables_say_holds(deployed: Deployment) -> None:
    port = processes.free_port()
    env = {"MIGRATOR_FLOWER_PORT": "", "FLOWER_PORT": str(port), "FLOWER_BASIC_AUTH": ":".join(LOGIN)}
    env |= {"FLOWER_TASKS_COLUMNS": "name,state", "FLOWER_URL_PREFIX": "ops"}
    process = spawn(deployed, port, env=env)
    deployed.wait(lambda: processes.accepts(port), process, "flower")
    page = httpx.get(f"http://127.0.0.1:{port}/ops/tasks", auth=LOGIN, timeout=20).text
    assert re.findall(r'data-column="(\w+)"', page) == ["name", "state"]


def test_the_list_lives_through_a_restart_and_nearly_all_of_it_through_a_kill(deployed: Deployment) -> None:
    env = {**AUTH, "MIGRATOR_FLOWER_DB": str(deployed.home / "kept"), "FLOWER_STATE_SAVE_INTERVAL": "500"}
    process, url = begin(deployed, env=env)
    worker = deployed.worker()
    deployed.beat()
    deployed.wait(lambda: [task for task in tasks_of(url) if task["state"] == "SUCCESS"], worker, "a tick in Flower")
    known = {task["uuid"] for task in tasks_of(url)}
    saved = time.time_ns()
    deployed.wait(
        lambda: any(each.stat().st_mtime_ns > saved for each in deployed.home.glob("kept*")), process, "saved"
    )
    deployed.wait(lambda: not list(deployed.home.glob("kept.tmp*")), process, "the save in its place")
    deployed.kill(process)
    process, url = begin(deployed, env=env)
    assert known <= {task["uuid"] for task in tasks_of(url)}
    known = {task["uuid"] for task in tasks_of(url)}
    processes.stop(process, first=signal.SIGTERM)
    _, url = begin(deployed, env=env)
    assert known <= {task["uuid"] for task in tasks_of(url)}
