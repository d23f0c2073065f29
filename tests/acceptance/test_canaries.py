"""P11: every secret is a canary here, and so is every text; nothing that others can read may hold one."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import redis

from migrator.demo import processes
from migrator.demo.servers import Valkey
from tests.acceptance.flower import begin
from tests.deployment import KEY, Deployment
from tests.receiving import SECRET, SECRET_ENV, Receiver, receiving

DATABASE_PASSWORD, BROKER_PASSWORD = "canary-of-the-database", "canary-of-the-broker"
LOGIN = ("operator", "canary-of-flower")
CANARIES = (KEY, SECRET, DATABASE_PASSWORD, BROKER_PASSWORD, LOGIN[1], "canary-title", "canary-body")
#: Pages and answers of Flower; the last two are errors of its own.
FLOWER = (
    "workers", "worker/w1@test", "tasks", "broker", "api/workers?refresh=1", "api/tasks", "api/task/types",
    "api/queues/length", "metrics", "task/nothing", "tasks/datatable?draw=x",
)  # fmt: skip


def words_of_every_process() -> str:
    """What anybody on the machine may read: command lines. Environments are their owner's alone."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return "\n".join(found)


@pytest.fixture
def secretive(deployed: Deployment, broker: Valkey) -> Deployment:
    """A deployment each of whose secrets is a canary."""
    with redis.Redis.from_url(broker.url) as client:
        client.config_set("requirepass", BROKER_PASSWORD)
    deployed.broker_url = f"redis://:{BROKER_PASSWORD}@127.0.0.1:{urlsplit(broker.url).port}/0"
    deployed.url = deployed.url.replace("postgres@", f"postgres:{DATABASE_PASSWORD}@")
    assert DATABASE_PASSWORD in deployed.url
    deployed.make_table(30)
    with deployed.connect() as connection:
        connection.execute("UPDATE docs SET title = 'canary-title', body = 'canary-body ' || id")
        connection.execute("INSERT INTO docs (title, body) VALUES ('canary-title', 'POISON-CONTENT canary-body')")
    deployed.spec_data["gates"]["max_quarantined_share"] = 0.9
    return deployed


def test_p11_no_secret_and_no_text_is_in_anything_that_can_be_read(secretive: Deployment, broker: Valkey) -> None:
    deployed = secretive
    with receiving() as receiver:
        deployed.spec_data["hooks"] = {"url": f"{receiver.url}/hooks", "secret_env": SECRET_ENV}
        told = whole_run(deployed, receiver)
    told |= {path.name: path.read_text() for path in deployed.home.glob("*.log")}
    # What went through the broker is in its file.
    files = [path.read_bytes() for path in broker.home.rglob("*.aof") if path.is_file()]
    told["broker"] = b"".join(files).decode(errors="replace")
    tables = deployed.query("SELECT tablename FROM pg_tables WHERE schemaname = 'migrator'")
    told["state"] = "".join(str(deployed.query(f"SELECT t::text FROM migrator.{table} t")) for (table,) in tables)
    for name, words in {
        "broker": "docs pages",
        "state": SECRET_ENV,
        "command lines": "w1@test",
        "w1.log": "docs.b",
    }.items():
        assert words in told[name], f"{name} was not looked at"
    leaks = {
        (name, each): text[max(0, text.index(each) - 200) :][:400]
        for name, text in told.items() for each in CANARIES if each in text
    }  # fmt: skip
    assert leaks == {}


def whole_run(deployed: Deployment, receiver: Receiver) -> dict[str, str]:
    """A migration with everything that tells of it; what each told."""
    env, told = {SECRET_ENV: SECRET}, {}
    _, flower = begin(deployed, env={"MIGRATOR_FLOWER_AUTH": ":".join(LOGIN)})
    exporter = f"127.0.0.1:{processes.free_port()}"
    deployed.spawn(sys.executable, "-m", "migrator", "exporter", "--listen", exporter, log="exporter.log")
    celery = [sys.executable, "-m", "celery", "-A", "workers.app"]
    deployed.spawn(*celery, "worker", "-n", "w1@test", "-c", "2", "--loglevel", "DEBUG", log="w1.log", env=env)
    deployed.spawn(*celery, "beat", "--loglevel", "DEBUG", log="beat.log")

    def say(*words: str, **changed: str) -> None:
        done = deployed.run(*words, env={**env, **changed})
        told[f"{words} {sorted(changed)}"] = done.stdout + done.stderr

    spec, page = str(deployed.spec_file), deployed.home / "docs.html"
    for words in (f"doctor {spec}", f"plan {spec}", f"plan {spec} --json", f"grants {spec}"):
        say(*words.split())
    say("start", spec, "--yes", "--skip-provenance", "made-up vectors")
    deployed.wait_for("ready")
    deployed.wait(lambda: receiver.received, log="a hook that was told")
    for words in (
        "status docs", "status docs --json", "batches docs", "rows docs", "rows docs --json", "pause docs --yes",
        "resume docs --yes", "status nothing", f"report docs -o {page}", f"start {spec} --yes", "alive",
    ):  # fmt: skip
        say(*words.split())
    nowhere = f"postgresql://me:{DATABASE_PASSWORD}@127.0.0.1:1/nowhere"
    for words in ("status docs", "doctor", "alive"):
        say(*words.split(), MIGRATOR_DATABASE_URL=nowhere)
        say(*words.split(), MIGRATOR_BROKER_URL=f"redis://:{BROKER_PASSWORD}@[::1")
    told["report"] = page.read_text()
    told["hooks"] = str(receiver.received)
    for path in FLOWER:
        told[f"flower {path}"] = httpx.get(f"{flower}/{path}", auth=LOGIN, timeout=20).text
    told["metrics"] = httpx.get(f"http://{exporter}/metrics", timeout=20).text
    told["command lines"] = words_of_every_process()
    return told
