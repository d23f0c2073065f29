"""What must hold after every disaster: P1 to P7, against the twin table and the provider's bill."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from migrator.demo.simulator.account import digest
from tests.deployment import V3, V4, Deployment, embed


def check(
    deployment: Deployment,
    *,
    unwritten_tokens: int = 0,
    quarantined: frozenset[int] = frozenset(),
    others: Sequence[Deployment] = (),
) -> None:
    """Check all of them; at most `unwritten_tokens` were answered to processes whose lease or database was gone.

    `others` are migrations of the same database and the same provider's account: the bill is theirs, too.
    """
    for each in (deployment, *others):
        _table(each, quarantined)
    _bill(deployment, unwritten_tokens, others)
    _cap(deployment)


def _table(deployment: Deployment, quarantined: frozenset[int]) -> None:
    rows = deployment.query(
        "SELECT d.id, t.id, coalesce(d.title, '') || E'\\n' || coalesce(d.body, ''), t.text, d.embedding::real[],"
        " d.embedding__migrator::real[] FROM docs d FULL JOIN twin t ON t.id = d.id ORDER BY 1"
    )
    twins = [(key, text, twin) for key, twin_key, text, twin, _, _ in rows if key != twin_key or text != twin]
    assert twins == [], "table and twin differ: the test itself is wrong"
    _one_generation_each(rows, quarantined)
    _accounted(deployment, len(rows))


def _one_generation_each(rows: list[Any], quarantined: frozenset[int]) -> None:
    """P1 and P5: no row is lost, none is stale, no column mixes generations, no row without text has a vector."""
    wrong = []
    for key, _, text, _, old, new in rows:
        for name, model, vector in (("live", V3, old), ("shadow", V4, new)):
            if not text.strip() or (name == "shadow" and key in quarantined):
                fits = vector is None
            else:
                fits = vector is not None and np.dot(vector, embed(model, text)) > 0.999
            if not fits:
                wrong.append((key, name, "lost" if vector is None else "stale or mixed"))
    assert wrong == []


def _accounted(deployment: Deployment, rows: int) -> None:
    """P6: embedded + skipped + quarantined = count(*)."""
    counted = deployment.value(
        """SELECT (SELECT count(embedding__migrator) FROM docs)
                + (SELECT count(*) FROM migrator.dispositions p
                    WHERE p.migration_id = (SELECT id FROM migrator.migrations WHERE name = %s)
                      AND kind <> 'truncated' AND EXISTS (SELECT FROM docs d WHERE d.id::text = p.key[1]))""",
        deployment.spec_data["name"],
    )
    assert counted == rows


def _bill(deployment: Deployment, most_unwritten: int, others: Sequence[Deployment]) -> None:
    """P2 and P3: a text is billed again only where its first answer was in flight at a kill."""
    validation = deployment.value(
        "SELECT coalesce(sum(spent_tokens), 0) FROM migrator.ledger WHERE purpose = 'validation'"
    )
    # Sent before the kill, answered after it: in flight as well, and settled.
    unwritten = deployment.value("SELECT coalesce(sum(unwritten_tokens), 0) FROM migrator.ledger")
    assert unwritten <= most_unwritten, "what is called lost is more than can have been in flight"
    lost = {name for (name,) in deployment.query("SELECT id FROM migrator.reservations WHERE possibly_billed")}
    entries = deployment.entries()
    in_flight = sum(entry["tokens"] for entry in entries if entry["request_id"] in lost)
    times: Counter[str] = Counter()
    again = 0
    for entry in entries:
        if not entry["model"].endswith(V4):
            continue
        for each, tokens in zip(entry["digests"], entry["counts"], strict=True):
            times[each] += 1
            again += tokens if times[each] > 1 else 0
    known_of = {"again": again, "in flight": in_flight, "validation": int(validation), "unwritten": int(unwritten)}
    assert again <= in_flight + int(validation) + int(unwritten), f"{known_of}\n{_how_it_went(deployment)}"
    known = {
        digest(text)
        for each in (deployment, *others)
        for (text,) in each.query("SELECT text FROM twin WHERE text ~ '\\S'")
    }
    quarantined = deployment.value("SELECT count(*) FROM migrator.dispositions WHERE kind = 'quarantined'")
    assert len(known - set(times)) <= quarantined, "every text that is there was paid for"


def _how_it_went(deployment: Deployment) -> str:
    """What a bill that is too high is explained by: who had which batch, and which requests were billed when."""
    told = [
        *deployment.query("SELECT number, pass_number, status, fence, attempts, deaths, failure FROM migrator.batches"),
        *deployment.query("SELECT duty, status, fence, attempts, deaths, failure FROM migrator.duties"),
        *deployment.query("SELECT purpose, requests, spent_tokens, unwritten_tokens FROM migrator.ledger"),
        *deployment.query("SELECT from_status, to_status, reason, at FROM migrator.transitions ORDER BY id"),
        *((entry["at"], entry["model"], len(entry["digests"]), entry["digests"][0]) for entry in deployment.entries()),
    ]
    return "\n".join(map(str, told))


def _cap(deployment: Deployment) -> None:
    """P7: what the ledger admits to is at least the bill, and never above the cap."""
    billed = deployment.simulator.ledger()["tokens"]  # first: it is reserved before it is sent
    budgets = deployment.query("SELECT committed_usd, max_usd FROM migrator.budgets")
    price = deployment.spec_data["to"]["price_usd_per_mtok"][1]
    assert billed * price / 1_000_000 <= float(sum(each[0] for each in budgets)) + 1e-9, _how_it_went(deployment)
    assert all(committed <= cap for committed, cap in budgets)
