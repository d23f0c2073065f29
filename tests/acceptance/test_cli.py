"""The commands as an operator types them: the whole life, its JSON, and every way to be refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from migrator.cli import app as cli
from migrator.demo.processes import free_port
from migrator.demo.servers import Postgres
from migrator.state.verdicts import GATES
from tests.deployment import KEY_VARIABLE, ROOT, V3, V4, Deployment, embed, literal


def sentences(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What happened, what state things are in, the next command: three lines or more, and no traceback."""
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
    assert len(lines) >= 3, done.stderr
    assert "`" in lines[-1] or "Check" in lines[-1], "the last sentence names what to do"
    return lines


def test_the_whole_life_from_init_to_cleanup(deployment: Deployment) -> None:
    deployment.make_table(120)
    spec = deployment.spec_file
    deployment.must("init")
    assert "nothing had to be changed" in deployment.must("init")
    assert "The plan is stored" in deployment.must("plan", spec)
    assert "--yes was not given" in deployment.must("start", spec, code=2)
    assert "Nothing was done (--dry-run)" in deployment.must("start", spec, "--dry-run")
    assert deployment.value("SELECT count(*) FROM pg_attribute WHERE attname LIKE '%%\\_\\_migrator'") == 0
    assert "is backfilling" in deployment.must("start", spec, "--yes")
    assert "a name is used once" in deployment.must("start", spec, "--yes", code=2)
    deployment.must("status", "docs", "--exit-code", code=75)
    assert "docs is ready." in deployment.must("work", "docs")
    deployment.must("status", "docs", "--exit-code")
    assert "Everything was rolled back" in deployment.must("cutover", "docs", "--rehearse")
    assert "add --readers-ready" in deployment.must("cutover", "docs", "--yes", code=2)
    assert "docs is completed" in deployment.must("cutover", "docs", "--yes", "--readers-ready")
    assert deployment.mismatches("embedding", V4) == []
    assert "cancel" in deployment.must("cancel", "docs", "--yes", code=2)
    assert "docs is rolled_back" in deployment.must("rollback", "docs", "--yes")
    assert deployment.mismatches("embedding", V3) == []
    deployment.must("resume", "docs")
    deployment.must("work", "docs")
    deployment.must("cutover", "docs", "--yes", "--readers-ready")
    assert "window of docs is open" in deployment.must("cleanup", "docs", "--yes", code=2)
    dry = deployment.must("cleanup", "docs", "--dry-run")
    assert "embedding__migrator" in dry
    assert "docs is cleaned" in deployment.must("cleanup", "docs", "--yes", "--close-window")
    assert "Nothing of ours is on the table" in deployment.must("cleanup", "docs", "--yes")
    assert deployment.mismatches("embedding", V4) == []


def test_status_and_plan_json_have_the_keys_that_stay(deployment: Deployment) -> None:
    deployment.make_table(30)
    spec = deployment.spec_file
    plan = json.loads(deployment.run("plan", spec, "--json").stdout)
    assert {
        "findings", "rows", "rows_to_embed", "skipped", "tokens", "cost_usd", "hours", "disk_bytes", "wal_bytes",
        "index_build", "dependents", "batches",
    } <= plan.keys()  # fmt: skip
    assert set(plan["tokens"]) >= {"estimate", "low", "high", "method"}
    assert set(plan["cost_usd"]) >= {"low", "high"}
    assert set(plan["index_build"]) == {"memory_bytes", "bytes"}
    assert {tuple(sorted(each)) for each in plan["findings"]} == {("code", "mend", "message", "object", "severity")}
    assert {(each["kind"], each["action"]) for each in plan["dependents"]} == {
        ("index", "build again"),
        ("view", "re-point"),
    }
    deployment.must("start", spec, "--yes", "--json")
    deployment.must("work", "docs")
    status = json.loads(deployment.run("status", "docs", "--json").stdout)
    assert set(status) >= {
        "name", "status", "reason", "since", "next", "rows", "batches", "cost", "rate", "throttle", "writes", "live",
        "rollback", "verdicts",
    }  # fmt: skip
    assert set(status["rows"]) == {
        "total", "done", "skipped", "quarantined", "dirty", "remaining", "arrived", "share",
    }  # fmt: skip
    assert set(status["batches"]) == {"total", "done", "leased", "pending", "failed"}
    assert set(status["cost"]) >= {"tokens", "usd", "reserved_usd", "max_usd", "estimated_usd"}
    assert set(status["rate"]) == {"rows_per_second", "tokens_per_minute", "eta_seconds"}
    assert status["rows"]["done"] == status["rows"]["total"] == 30
    assert status["rows"]["remaining"] == 0
    assert status["live"]["generation"] == f"{V3}@64"
    assert {each["gate"]: each["passed"] for each in status["verdicts"]} == dict.fromkeys(GATES, True)
    assert status["cost"]["tokens"] == deployment.simulator.ledger()["tokens"]


def test_status_without_a_name_lists_all(deployment: Deployment) -> None:
    deployment.make_table(5)
    assert "no migration in this database" in deployment.must("status")
    deployment.must("plan", deployment.spec_file)
    listed = deployment.must("status")
    assert "docs" in listed
    assert "planned" in listed
    assert json.loads(deployment.run("status", "--json").stdout)[0]["name"] == "docs"


def test_status_and_doctor_say_that_no_worker_is_alive(deployment: Deployment) -> None:
    deployment.make_table(5)
    deployment.must("start", deployment.spec_file, "--yes")
    assert "none alive: run `celery -A workers.app worker`" in deployment.must("status", "docs")
    assert "workers: none is alive" in deployment.run("doctor").stdout
    assert "carries our suffix" not in deployment.run("doctor", deployment.spec_file).stdout, "it is its own"


def test_rows_batches_and_retry(deployment: Deployment) -> None:
    deployment.make_table(20)
    with deployment.connect() as connection:
        connection.execute("INSERT INTO docs (title) VALUES ('POISON-CONTENT'), (NULL)")
    deployment.spec_data["gates"]["max_quarantined_share"] = 0.5
    deployment.must("start", deployment.spec_file, "--yes")
    deployment.must("work", "docs")
    rows = deployment.must("rows", "docs")
    assert "21" in rows
    assert "content" in rows
    assert "POISON" not in rows
    assert len(json.loads(deployment.run("rows", "docs", "--reason", "null", "--json").stdout)) == 1
    assert "No such batches" in deployment.must("batches", "docs", "--failed")
    assert "done" in deployment.must("batches", "docs")
    assert "1 rows will be tried again" in deployment.must("retry", "docs")


def test_pause_resume_cancel_and_limits(deployment: Deployment) -> None:
    deployment.make_table(5)
    deployment.must("start", deployment.spec_file, "--yes")
    assert "paused" in deployment.must("pause", "--all")
    assert "There was nothing to pause" in deployment.must("pause", "--all")
    deployment.must("pause", code=2)
    deployment.must("status", "docs", "--exit-code", code=4)
    assert "docs is paused" in deployment.must("work", "docs", code=4)
    printed = deployment.must(
        "limits", "docs", "--rpm", 60, "--tpm", 1000, "--max-cost", 2, "--window", "22:00-06:00 UTC"
    )
    assert "requests_per_minute: 60" in printed
    assert "22:00-06:00 UTC" in printed
    deployment.must("limits", "docs", "--window", "noon", code=2)
    assert deployment.value("SELECT max_usd FROM migrator.budgets") == 2
    deployment.must("limits", "docs", "--window", "always", "--rpm", 0)
    deployment.must("resume", "docs")
    assert "is cancelled" in deployment.must("cancel", "docs", "--yes")
    assert "docs is cleaned" in deployment.must("cleanup", "docs", "--yes")


def test_a_stored_plan_that_no_longer_holds_is_refused_naming_what_changed(deployment: Deployment) -> None:
    deployment.make_table(5)
    deployment.must("plan", deployment.spec_file)
    with deployment.connect() as connection:
        connection.execute("ALTER TABLE docs ADD extra int")
    printed = deployment.must("start", deployment.spec_file, "--yes", code=2)
    assert "column extra was added" in printed
    assert "--replan" in printed
    deployment.spec_data["limits"]["max_cost_usd"] = 3.0
    assert "the spec file is different" in deployment.must("start", deployment.spec_file, "--yes", code=2)
    deployment.must("start", deployment.spec_file, "--yes", "--replan")


def test_a_role_with_select_only_can_plan(deployment: Deployment, sql: psycopg.Connection) -> None:
    deployment.make_table(10)
    sql.execute("CREATE ROLE only_select LOGIN; GRANT SELECT ON docs TO only_select")
    url = deployment.url.replace("postgres@", "only_select@")
    # The table as it lies there, row by row: counters of pg_stat come late.
    lying = "SELECT ctid::text, xmin::text, xmax::text FROM docs ORDER BY id"
    before = sql.execute(lying).fetchall()
    try:
        done = deployment.run("plan", deployment.spec_file, env={"MIGRATOR_DATABASE_URL": url})
        assert done.returncode == 0, done.stderr
        assert "10, of which 10 are embedded" in done.stdout
        assert "The plan was not stored" in done.stdout
        assert "privilege_owner" in done.stdout
        after = sql.execute(lying).fetchall()
        assert after == before
    finally:
        sql.execute("DROP OWNED BY only_select; DROP ROLE only_select")


def test_wrong_urls_servers_and_databases(deployment: Deployment) -> None:
    cases: list[tuple[str | None, int, str]] = [
        (None, 2, "MIGRATOR_DATABASE_URL is not set"),
        ("mysql://x/y", 2, "must begin with postgresql://"),
        (f"postgresql://postgres@127.0.0.1:{free_port()}/postgres", 75, "can't be reached: connection refused"),
        ("postgresql://postgres@no-such-host.invalid/x", 75, "can't be reached"),
        (deployment.url.rsplit("/", 1)[0] + "/no_such_database", 2, "refused the connection"),
        (deployment.url.replace("postgres@", "nobody_here@"), 2, "refused the connection"),
    ]
    for url, code, words in cases:
        done = deployment.run("status", env={"MIGRATOR_DATABASE_URL": url or ""})
        assert done.returncode == code, (url, done.stderr)
        assert words in " ".join(sentences(done))


def test_a_wrong_password_is_refused_and_not_shown(
    scratch_server: Callable[..., Postgres], deployment: Deployment
) -> None:
    server = scratch_server()
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("ALTER ROLE postgres PASSWORD 'right'")
        (server.home / "data" / "pg_hba.conf").write_text("host all all 127.0.0.1/32 scram-sha-256\n")
        connection.execute("SELECT pg_reload_conf()")
    url = server.url.replace("postgres@", "postgres:canary-wrong@")
    done = deployment.run("status", env={"MIGRATOR_DATABASE_URL": url})
    assert done.returncode == 2
    assert "authentication failed" in " ".join(sentences(done))
    assert "canary" not in done.stdout + done.stderr
    doctor = deployment.run(
        "doctor", env={"MIGRATOR_DATABASE_URL": url, "MIGRATOR_BROKER_URL": "redis://:canary@127.0.0.1:1/0"}
    )
    assert doctor.returncode == 2
    assert "canary" not in doctor.stdout + doctor.stderr


def test_missing_extension_and_schema(deployment: Deployment, bare_database: str) -> None:
    bare = {"MIGRATOR_DATABASE_URL": bare_database}
    done = deployment.run("status", env=bare)
    assert done.returncode == 2
    assert "no schema `migrator`" in sentences(done)[0]
    done = deployment.run("init", env=bare)
    assert done.returncode == 2
    assert "CREATE EXTENSION vector" in sentences(done)[-1]
    assert "pgvector: it is not installed" in deployment.run("doctor", env=bare).stdout
    done = deployment.run("plan", deployment.spec_file, env=bare)
    assert done.returncode == 2
    assert "extension_missing" in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["pause", "docs"], ["pause", "--all"], ["resume", "docs"], ["cancel", "docs", "--yes"], ["batches", "docs"],
        ["rows", "docs"], ["retry", "docs"], ["limits", "docs", "--rpm", "5"], ["validate", "docs"], ["work", "docs"],
        ["cutover", "docs", "--rehearse"], ["rollback", "docs", "--yes"], ["cleanup", "docs", "--yes"],
    ],
)  # fmt: skip
def test_every_verb_says_that_the_schema_is_missing(
    words: list[str], bare_database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MIGRATOR_DATABASE_URL", bare_database)
    assert cli.run(words) == 2
    assert "no schema `migrator`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda d: d["target"].update(table="public.none"), 2, "table_missing"),
        (lambda d: d["target"].update(column="none"), 2, "column_missing"),
        (lambda d: d["target"].update(text="{none}"), 2, "text_column_missing"),
        (lambda d: d["target"].update(key=["title"]), 2, "key_missing"),
        (lambda d: d["from"].update(dimensions=128), 2, "dims_differ_from_spec"),
        (lambda d: d["to"].update(dimensions=2048), 2, "dims_over_index_limit"),
        (lambda d: d["target"].update(where="nope = 1"), 2, "expression_fails"),
        (lambda d: d["to"].update(profile="none"), 2, "no provider profile"),
        (lambda d: d["to"].pop("price_usd_per_mtok"), 2, "it is missing"),
    ],
)
def test_a_spec_that_does_not_fit_the_table(
    deployment: Deployment, change: Callable[[dict[str, Any]], Any], code: int, words: str
) -> None:
    deployment.make_table(3)
    change(deployment.spec_data)
    done = deployment.run("plan", deployment.spec_file)
    assert done.returncode == code
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    started = deployment.run("start", deployment.spec_file, "--yes")
    assert started.returncode == 2
    sentences(started)


def test_a_malformed_spec_and_its_json(deployment: Deployment, tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("name = 'docs'\n[target]\ntable = 3\n")
    done = deployment.run("plan", broken)
    assert done.returncode == 2
    assert "[target] table" in done.stderr
    error = json.loads(deployment.run("plan", broken, "--json").stderr)
    assert error["error"] == "SpecInvalid"
    assert error["exit_code"] == 2
    assert {"happened", "state", "next", "runbook"} <= error.keys()


def test_provider_key_missing_refused_and_provider_unreachable(deployment: Deployment) -> None:
    deployment.make_table(20)
    deployment.must("start", deployment.spec_file, "--yes")
    done = deployment.run("work", "docs", env={KEY_VARIABLE: ""})
    assert done.returncode == 4
    assert f"KeyMissing: {KEY_VARIABLE} is not set" in " ".join(sentences(done))
    assert (
        f"{KEY_VARIABLE} is not set here"
        in deployment.run("doctor", deployment.spec_file, env={KEY_VARIABLE: ""}).stdout
    )

    deployment.simulator.admin(keys=["another"])
    deployment.must("resume", "docs")
    done = deployment.run("work", "docs")
    assert done.returncode == 4
    assert "key refused (HTTP 401 invalid_api_key)" in " ".join(sentences(done))
    assert "key refused" in deployment.run("doctor", deployment.spec_file).stdout
    deployment.simulator.admin(keys=None)

    deployment.spec_data["to"]["base_url"] = f"http://127.0.0.1:{free_port()}/v1"
    assert "can't be reached (ConnectError)" in deployment.run("doctor", deployment.spec_file).stdout
    deployment.must("resume", "docs")
    deployment.must("work", "docs")


def test_unknown_names_verbs_and_options(deployment: Deployment) -> None:
    done = deployment.run("status", "nothing")
    assert done.returncode == 2
    assert "no migration named nothing" in sentences(done)[0]
    for words in (["nonsense"], ["status", "--nonsense"], ["plan"], ["work", "docs", "--until", "heaven"]):
        done = deployment.run(*words)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


def test_pause_and_status_work_while_the_broker_is_down(deployment: Deployment) -> None:
    deployment.make_table(3)
    deployment.must("start", deployment.spec_file, "--yes")
    for words in (["status", "docs"], ["pause", "docs"], ["resume", "docs"], ["cancel", "docs", "--yes"]):
        deployment.must(*words)
    doctor = deployment.run("doctor")
    assert doctor.returncode == 2
    assert "broker: redis://127.0.0.1:1/0 can't be reached" in doctor.stdout


def test_p11_no_text_and_no_secret_in_anything_that_is_printed(deployment: Deployment) -> None:
    deployment.make_table(3)
    with deployment.connect() as connection:
        connection.execute("INSERT INTO docs (title, body) VALUES ('secret-title', 'secret-body POISON-CONTENT')")
        connection.execute("INSERT INTO docs (title, body) VALUES ('secret-title', 'secret-body CRASH-SERVER')")
        vector = literal(embed(V3, "x"))
        connection.execute("INSERT INTO docs (title, body, embedding) VALUES ('secret-title', ' ', %s)", [vector])
    deployment.spec_data["gates"]["max_quarantined_share"] = 0.9
    printed = deployment.must("start", deployment.spec_file, "--yes", "--skip-provenance", "made-up vectors")
    process = deployment.work()
    deployment.wait(lambda: deployment.value("SELECT count(*) FROM migrator.dispositions") >= 1)
    deployment.wait(lambda: deployment.simulator.ledger()["refused"].get("internal_error", 0) >= 2)
    deployment.must("pause", "docs")
    process.wait(60)
    for words in (["status", "docs"], ["status", "docs", "--json"], ["rows", "docs"], ["batches", "docs"], ["doctor"]):
        printed += "".join(str(part) for part in (deployment.run(*words).stdout, deployment.run(*words).stderr))
    printed += (deployment.home / "work.log").read_text()
    printed += str(deployment.query("SELECT reason FROM migrator.transitions"))
    printed += str(deployment.query("SELECT * FROM migrator.batches"))
    assert "secret-" not in printed


def test_help_is_quick_and_complete(deployment: Deployment) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "migrator", "--help"],
        env=deployment.env, cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for heavy in ("sqlalchemy", "psycopg", "numpy", "httpx", "celery", "pydantic", "alembic"):
        assert f" {heavy}\n" not in done.stderr, f"--help must not load {heavy}"
    for verb in ("init", "doctor", "plan", "start", "work", "status", "cutover", "rollback", "cleanup", "demo"):
        assert f"\n  {verb}" in done.stdout
        text = deployment.run(verb, "--help").stdout
        assert "Examples" in text


def test_fence_declares_lists_and_takes_back(deployment: Deployment) -> None:
    deployment.make_table(5)
    deployment.must("plan", deployment.spec_file)
    declaration = ("fence", "docs", "--role", "postgres", "--generation", f"qwen/{V4}@64")
    assert "started and not cleaned up" in deployment.must(*declaration, "--yes", code=2)
    deployment.must("start", deployment.spec_file, "--yes")
    assert "No role is declared for docs" in deployment.must("fence", "docs")
    assert "--yes was not given" in deployment.must(*declaration, code=2)
    assert "Nothing was done (--dry-run)" in deployment.must(*declaration, "--dry-run")
    assert json.loads(deployment.run("fence", "docs", "--list", "--json").stdout)["writers"] == []
    told = json.loads(deployment.run(*declaration, "--yes", "--json").stdout)
    assert (told["changed"], told["generation"]) == (True, f"qwen/{V4}@64")
    assert f"postgres  qwen/{V4}@64" in deployment.must("fence", "docs")
    assert f"declared  role postgres writes qwen/{V4}@64" in deployment.must("status", "docs")
    assert "already; nothing was changed" in deployment.must(*declaration)
    assert "does not know the generation v4@64" in deployment.must(
        "fence", "docs", "--role", "postgres", "--generation", "v4@64", "--yes", code=2
    )
    assert "no role ghost" in deployment.must("fence", "docs", "--role", "ghost", "--remove", "--yes", code=2)
    for words in (
        ("--role", "postgres"),
        ("--remove",),
        ("--role", "postgres", "--list"),
        (*declaration[2:], "--remove"),
    ):
        assert "Usage:" in deployment.must("fence", "docs", *words, code=2)
    deployment.must("fence", "docs", "--role", "postgres", "--generation", "", "--yes")
    assert "No role is declared for docs" in deployment.must("fence", "docs")
