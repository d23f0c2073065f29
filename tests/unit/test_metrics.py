"""What is promised of metrics: documents, alert rules and dashboard name what there is, and labels are few."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from migrator.lifecycle import MigrationStatus
from migrator.orchestrator.metrics import METRICS, UP, WORKERS, binds
from migrator.signals import METRICS as SIGNALS

ROOT = Path(__file__).resolve().parents[2]
LABELS = {UP[0]: set[str](), WORKERS[0]: set[str]()} | {each.name: {"migration", *each.labels} for each in METRICS}
HELP = dict([UP, WORKERS]) | {each.name: each.help for each in METRICS}
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((ROOT / "deploy/alerts.yml").read_text())["groups"] for rule in group["rules"]
]
BOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana/dashboards/pgvector-migrator.json").read_text())
EXPRESSIONS = [rule["expr"] for rule in RULES] + [
    target["expr"] for panel in BOARD["panels"] for target in panel["targets"]
]
NAME = re.compile(r"\bmigrator_[a-z_]+")
#: A metric with its label matchers.
SELECTOR = re.compile(r"\b(migrator_[a-z_]+)\{([^}]*)\}")
WORDS = re.compile(r"\{\{ ?\$?(?:labels\.)?(\w+) ?\}\}")


def test_names_are_unique_and_say_their_unit() -> None:
    assert len(LABELS) == len(METRICS) + 2
    for name in LABELS:
        assert re.fullmatch(r"migrator_[a-z]+(_[a-z0-9]+)*", name)
        assert not name.endswith("_total"), "gauges, since an operator's retry takes counts back"


def test_the_document_lists_every_metric_with_its_labels() -> None:
    text = (ROOT / "docs/metrics.md").read_text()
    found = re.findall(r"^\| `(migrator_\w+)` \|(.*?)\| (.+) \|$", text, re.MULTILINE)
    assert [name for name, _, _ in found] == list(LABELS)
    for name, labels, meaning in found:
        assert set(re.findall(r"`(\w+)`", labels)) == LABELS[name]
        assert meaning == HELP[name]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_alerts_and_dashboard_ask_for_what_there_is(expression: str) -> None:
    names = set(NAME.findall(expression))
    assert names
    assert names <= set(LABELS)
    for name, matchers in SELECTOR.findall(expression):
        asked = dict(re.findall(r'(\w+)=~?"([^"]*)"', matchers))
        assert set(asked) <= LABELS[name]
        if "status" in asked:
            assert set(asked["status"].split("|")) <= {each.value for each in MigrationStatus}
    assert expression.count("(") == expression.count(")")


def test_every_metric_is_on_the_dashboard_or_alerts() -> None:
    shown = {name for each in EXPRESSIONS for name in NAME.findall(each)}
    assert set(LABELS) - shown <= {
        "migrator_tokens", "migrator_live_generation", "migrator_rollback_window_open", "migrator_rollback_debt_usd",
    }  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_has_a_runbook_and_words_that_its_labels_fill(rule: dict[str, Any]) -> None:
    assert (ROOT / rule["annotations"]["runbook"]).is_file()
    kept = {label for name in NAME.findall(rule["expr"]) for label in LABELS[name]} | {"value"}
    assert set(WORDS.findall(rule["annotations"]["summary"])) <= kept
    assert rule["labels"]["severity"] in {"info", "warning", "critical"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_no_alert_fires_for_what_is_cancelled(rule: dict[str, Any]) -> None:
    """It looks at other statuses only, or not at migrations, or leaves out what is cancelled."""
    expression = " ".join(rule["expr"].split())
    of_migrations = any("migration" in LABELS[name] for name in NAME.findall(expression))
    statuses = {word for words in re.findall(r'status=~?"([^"]*)"', expression) for word in words.split("|")}
    leaves_out = expression.endswith('unless on(migration) migrator_status{status="cancelled"} == 1')
    assert leaves_out or not of_migrations or (statuses and "cancelled" not in statuses)


def test_every_legend_is_filled() -> None:
    for panel in BOARD["panels"]:
        for target in panel["targets"]:
            (name,) = set(NAME.findall(target["expr"])) & {NAME.findall(target["expr"])[0]}
            assert set(WORDS.findall(target["legendFormat"])) <= LABELS[name]


def test_what_binds_is_a_word_of_a_fixed_list() -> None:
    assert binds("requests/min (slow start)") == "requests"
    assert binds("tokens/min") == "tokens"
    assert binds("window") == "window"
    assert binds("priority: others of its provider account go first") == "priority"
    assert binds("start at 2026-12-01 14:00 UTC") == "start_at"
    assert binds("provider pause (429: Requests rate limit exceeded)") == "provider_pause"
    assert binds("breaker open since 2026-01-02 03:04:05 UTC: ProviderBusy") == "breaker"
    assert binds("the database's signals were not read for 31 s") == "signals_unread"
    assert {binds(f"{each.label} 3.0 s > 2.0 s") for each in SIGNALS.values()} == {"signal"}
    assert binds("ProviderStopped: somebody's words") == "other"
