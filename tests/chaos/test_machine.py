"""P5: edits, answers, kills and control verbs in any order that hypothesis can think of, against real PostgreSQL.

The engine runs in this process, as `migrator work` runs it. A kill is a claim whose holder is never heard of again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from migrator.errors import MigratorError
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import verbs
from migrator.orchestrator.perform import perform
from migrator.orchestrator.tick import tick
from migrator.spending.worker import Worker
from migrator.state import leases
from migrator.state.connection import transaction
from migrator.state.leases import Ticket
from tests.chaos import invariants
from tests.deployment import V3, Deployment, embed, literal
from tests.integration.steps import drain, start, to

KEYS = st.integers(1, 12)


class Machine(RuleBasedStateMachine):
    """`make` gives each run a database of its own."""

    make: Callable[[], tuple[Deployment, Worker, Callable[[], None]]]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.tickets: list[Ticket] = []
        self.texts = 0
        #: What was answered to a lease that was gone by then.
        self.unwritten_tokens = 0

    @initialize()
    def begin(self) -> None:
        self.deployment, self.worker, self.dispose = type(self).make()
        self.deployment.make_table(10)
        with self.deployment.connect() as connection:
            connection.execute("CREATE TABLE twin AS SELECT id, title || E'\\n' || body AS text FROM docs")
        self.runner.run(start(self.deployment, self.worker))

    # The application

    def _write(self, key: int, change: str) -> None:
        self.texts += 1
        title, body = "live", f"text {self.texts}"
        text = f"{title}\n{body}"
        with self.deployment.connect() as connection, connection.transaction():
            connection.execute("DELETE FROM twin WHERE id = %s", [key])
            if change == "delete":
                connection.execute("DELETE FROM docs WHERE id = %s", [key])
                return
            if change == "empty":
                title, body, text = "", "", "\n"
            vector = literal(embed(V3, text)) if text.strip() else None
            connection.execute(
                "INSERT INTO docs (id, title, body, embedding) VALUES (%s, %s, %s, %s) ON CONFLICT (id) DO UPDATE"
                " SET title = excluded.title, body = excluded.body, embedding = excluded.embedding",
                [key, title, body, vector],
            )
            connection.execute("INSERT INTO twin VALUES (%s, %s)", [key, text])

    @rule(key=KEYS, change=st.sampled_from(["edit", "edit", "edit", "delete", "empty"]))
    def write(self, key: int, change: str) -> None:
        self._write(key, change)

    # The workers

    @rule()
    def ticks(self) -> None:
        made = self.runner.run(tick(self.worker.engine, actor="test", only="docs", ticket_seconds=0.001))
        self.tickets += made.tickets

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def delivery(self, data: Any) -> None:
        """Any ticket that ever was, also one that was delivered before."""
        self._perform(data.draw(st.sampled_from(self.tickets)))

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), key=KEYS, change=st.sampled_from(["edit", "delete", "empty"]))
    def delivery_with_a_write_in_between(self, data: Any, key: int, change: str) -> None:
        """A row changes while the provider has its text."""
        ticket = data.draw(st.sampled_from(self.tickets))
        self.deployment.simulator.admin(latency_seconds=0.1)

        async def both() -> None:
            working = asyncio.create_task(self._quietly(ticket))
            await asyncio.sleep(0.05)
            await asyncio.to_thread(self._write, key, change)
            await working

        self.runner.run(both())
        self.deployment.simulator.admin(latency_seconds=0.0)

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def kill_after_the_claim(self, data: Any) -> None:
        ticket = data.draw(st.sampled_from(self.tickets))

        async def claim() -> None:
            async with transaction(self.worker.engine) as connection:
                await leases.claim(connection, ticket, holder="killed", seconds=0)

        self.runner.run(claim())

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def kill_while_the_provider_answers(self, data: Any) -> None:
        """The lease is gone when the answers come."""
        ticket = data.draw(st.sampled_from(self.tickets))
        self.deployment.simulator.admin(latency_seconds=0.1)

        async def both() -> None:
            working = asyncio.create_task(self._quietly(ticket))
            await asyncio.sleep(0.05)
            await asyncio.to_thread(self._end_leases)
            await tick(self.worker.engine, actor="test", only="docs", ticket_seconds=0.001)
            await working

        self.runner.run(both())
        self.deployment.simulator.admin(latency_seconds=0.0)

    def _end_leases(self) -> None:
        with self.deployment.connect() as connection:
            for table in ("batches", "duties"):
                connection.execute(
                    f"UPDATE migrator.{table} SET lease_until = now() - interval '1 s' WHERE status = 'leased'".encode()
                )

    def _perform(self, ticket: Ticket) -> None:
        self.runner.run(self._quietly(ticket))

    async def _quietly(self, ticket: Ticket) -> None:
        ledger = self.deployment.simulator.ledger
        before = (await asyncio.to_thread(ledger))["tokens"]
        try:
            line = await perform(self.worker, ticket)
        except MigratorError as error:
            assert error.exit_code != 1, str(error)  # noqa: PT017 - most of them raise nothing
            return
        if "was lost" in line:
            self.unwritten_tokens += (await asyncio.to_thread(ledger))["tokens"] - before

    # The operator

    @rule(verb=st.sampled_from(["pause", "resume", "retry"]))
    def control(self, verb: str) -> None:
        try:
            self.runner.run(getattr(verbs, verb)(self.worker.engine, "docs", actor="test"))
        except MigratorError as error:
            assert error.exit_code == 2, str(error)  # noqa: PT017 - some raise nothing

    def teardown(self) -> None:
        if not hasattr(self, "deployment"):
            self.runner.close()
            return
        try:
            self._end_leases()
            self.control("resume")
            self.runner.run(to(self.worker, MigrationStatus.READY))
            self.runner.run(drain(self.worker))
            invariants.check(self.deployment, unwritten_tokens=self.unwritten_tokens)
        finally:
            self.runner.run(self.worker.close())
            self.dispose()
            self.runner.close()


@pytest.mark.timeout(1200)
def test_p5_any_order_of_edits_answers_kills_and_verbs(
    make_deployment: Callable[[], tuple[Deployment, Worker, Callable[[], None]]], machine_runs: int
) -> None:
    Machine.make = staticmethod(make_deployment)  # type: ignore[method-assign, assignment]
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=machine_runs,
            stateful_step_count=20,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        ),
    )
