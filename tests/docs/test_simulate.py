"""docs/simulate.md: each rehearsal is held as it is written, and its tables name what there is."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from typing import Any

import httpx
import pytest

from migrator.cli import app as cli
from migrator.demo import processes
from migrator.demo.simulator import faults, scenario
from migrator.demo.simulator.behaviour import ACTIONS, Behaviour
from migrator.demo.simulator.dialects import DIALECTS
from tests.deployment import V4, Deployment, generation_of
from tests.docs import pages
from tests.docs.pages import ROOT, read

PAGE = read(ROOT / "docs/simulate.md")
SECTIONS = pages.sections(PAGE)
#: The rehearsals by their scenario, and what each must end as.
REHEARSALS = {
    "The provider fails for a while": ("outage", "ready"),
    "A throttling storm": ("throttling-storm", "ready"),
    "A gateway answers with the old model": ("old-model-answers", "paused"),
    "The account runs into arrears": ("account-in-arrears", "ready"),
}


def test_every_shipped_scenario_is_rehearsed() -> None:
    assert sorted(name for name, _ in REHEARSALS.values()) == scenario.shipped()


class Rehearsal:
    """The operator's two terminals: the simulator as a process, everything else in this one."""

    def __init__(self, deployment: Deployment, capfd: pytest.CaptureFixture[str]) -> None:
        self.deployment, self.capfd = deployment, capfd
        self.port = processes.free_port()
        self.printed: list[str] = []
        self.codes: dict[str, int] = {}

    def play(self, command: tuple[str, ...]) -> None:
        if command[:2] == ("migrator", "simulate"):
            self._simulate(command[2:])
        elif command[0] == "curl":
            self._curl(command[1:])
        else:
            self.capfd.readouterr()
            self.codes[command[1]] = cli.run(list(command[1:]))
            self.printed.append("".join(self.capfd.readouterr()))
            assert "Usage:" not in self.printed[-1], command

    def _simulate(self, words: tuple[str, ...]) -> None:
        assert words[:2] == ("--port", "8099")
        # As it is written, but at once and on a port of this test's own.
        mine = ["--port", str(self.port), *words[2:], "--latency-scale", "0"]
        process = self.deployment.spawn(sys.executable, "-m", "migrator", "simulate", *mine, log="simulate.log")
        self.deployment.wait(lambda: processes.accepts(self.port), process, "simulate")

    def _curl(self, words: tuple[str, ...]) -> None:
        assert words[0] == "-s"
        url = words[1].replace(":8099/", f":{self.port}/")
        data = words[3] if words[2:3] == ("-d",) else None
        answer = httpx.post(url, content=data) if data else httpx.get(url)
        self.printed.append(answer.raise_for_status().text)

    def ledger(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"http://127.0.0.1:{self.port}/ledger").json()
        return found


@pytest.fixture
def rehearsal(deployment: Deployment, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Rehearsal:
    made = Rehearsal(deployment, capfd)
    deployment.make_table(120)
    deployment.spec_data["to"]["base_url"] = f"http://127.0.0.1:{made.port}/v1"
    assert deployment.spec_file.name == "docs.toml"
    monkeypatch.chdir(deployment.home)
    for name, value in deployment.env.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.mark.parametrize("section", REHEARSALS)
def test_a_rehearsal_goes_as_it_is_written(rehearsal: Rehearsal, section: str) -> None:
    name, ends_as = REHEARSALS[section]
    deployment = rehearsal.deployment
    for command in pages.commands(SECTIONS[section]):
        rehearsal.play(command)
    log = (deployment.home / "simulate.log").read_text()
    for step in scenario.load(name).steps:
        assert re.search(rf"^request \d+: {re.escape(step.told)}$", log, re.MULTILINE), (
            f"{step.told} never came:\n{log}"
        )
    assert deployment.status == ends_as, rehearsal.printed
    assert rehearsal.codes["start"] == 0, "it strikes after the start"
    assert deployment.query("SELECT * FROM migrator.dispositions") == [], "no row is blamed"
    if ends_as == "ready":
        assert rehearsal.codes["work"] == 0
        assert deployment.mismatches("embedding__migrator", V4) == []
    else:
        assert rehearsal.codes["work"] in {2, 3, 4}
        rows = deployment.query(
            "SELECT title, body, embedding__migrator::real[] FROM docs WHERE embedding__migrator IS NOT NULL"
        )
        assert rows, "it strikes in the middle"
        assert {generation_of(vector, f"{title}\n{body}") for title, body, vector in rows} == {V4}
        assert "OldModelAnswered" in rehearsal.printed[-2]


def test_the_bill_of_an_outage_is_never_above_ours(rehearsal: Rehearsal) -> None:
    """What the page says of the first rehearsal."""
    for command in pages.commands(SECTIONS["The provider fails for a while"]):
        rehearsal.play(command)
    ledger = rehearsal.ledger()
    assert ledger["requests_lost"] == 2
    cost = json.loads(rehearsal.deployment.must("status", "docs", "--json"))["cost"]
    assert cost["possibly_billed_usd"] >= ledger["tokens_lost"] * 1.0 / 1e6
    counted = cost["usd"] + cost["reserved_usd"] + cost["possibly_billed_usd"]
    assert counted >= ledger["tokens"] * 1.0 / 1e6 - 1e-9


def test_the_arrears_are_seen_before_they_are_paid(rehearsal: Rehearsal) -> None:
    commands = pages.commands(SECTIONS["The account runs into arrears"])
    paid = next(number for number, words in enumerate(commands) if words[0] == "curl")
    for command in commands[:paid]:
        rehearsal.play(command)
    assert rehearsal.deployment.status == "paused"
    assert "account in arrears" in rehearsal.printed[-1]


def names(section: str) -> list[str]:
    """What stands in the first column of a section's tables."""
    first = re.findall(r"^\| (`[^|]+) \|", SECTIONS[section], re.MULTILINE)
    return [name for cell in first for name in re.findall(r"`(\w+)`", cell)]


def test_the_page_names_every_switch_and_every_fault() -> None:
    assert sorted(names("Switches")) == sorted(Behaviour.model_fields)
    assert sorted(names("Faults")) == sorted(faults.REFUSED | faults.LOST | faults.SPOILT)
    assert all(f"`{dialect}`" in SECTIONS["Switches"] for dialect in DIALECTS)
    assert all(f"`{action}`" in PAGE for action in ACTIONS)


def test_the_page_has_the_switches_defaults() -> None:
    started = {"v3_token_ratio", "latency_seconds", "latency_per_text_seconds", "latency_jitter", "latency_tail_share",
               "latency_tail_seconds"}  # fmt: skip
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", SECTIONS["Switches"], re.MULTILINE))
    for name, default in rows.items():
        real = Behaviour.model_fields[name].default
        if name not in started and real is not None:
            assert json.loads(default.strip("`")) == real, name


def test_the_sample_scenario_loads() -> None:
    samples = [block.body for block in pages.blocks(SECTIONS["Your own scenario"]) if block.language == "toml"]
    assert len(samples) == 1
    assert len(scenario.parse(tomllib.loads(samples[0]), "the sample").steps) == 2
