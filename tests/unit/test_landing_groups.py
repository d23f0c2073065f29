"""Answers that arrive while others are being landed go together, and rows of one heap page never do."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from migrator.backfill import embedding
from migrator.backfill.classify import Work
from migrator.backfill.embedding import LANDING_ROWS, LEAVING_ROWS, _Crew
from migrator.backfill.landing import Held, Landed
from migrator.errors import Defect
from migrator.measures.landing_size import LandingSize
from migrator.provider.embedder import Answer
from migrator.state.leases import Kind, LeaseLost
from migrator.state.signals import Reading
from migrator.target.lanes import Row


class Landings:
    """A landing that takes a while and remembers what it was given."""

    def __init__(
        self,
        fail_at: int | None = None,
        error: Callable[[], Exception] = lambda: Defect("test"),
        kind: Kind = Kind.BATCH,
    ) -> None:
        self.migration, self.lease = SimpleNamespace(id=1), SimpleNamespace(kind=kind)
        self.groups: list[list[int]] = []
        self.last: list[bool] = []
        self._fail_at, self._error = fail_at, error

    async def land(self, _: object, work: Sequence[Work], answers: Sequence[Answer], *, last: bool) -> Landed:
        assert work
        for _turn in range(20):
            await asyncio.sleep(0)
        self.groups.append([position for answer in answers for position in answer.positions])
        self.last.append(last)
        if len(self.groups) == self._fail_at:
            raise self._error()
        return Landed(len(self.groups[-1]), [])


class Asked:
    """A provider that answers at once, and a purse that remembers what was spent for nothing."""

    def __init__(self) -> None:
        self.spent: list[str] = []
        self.purse = self

    async def embed(self, _: Sequence[str], run: Sequence[int]) -> AsyncIterator[Answer]:
        await asyncio.sleep(0)
        yield Answer(tuple(run), np.zeros((len(run), 2), "<f4"), str(run[0]), 1)

    async def forfeit(self, request_id: str, used_tokens: int) -> None:
        assert used_tokens == 1
        self.spent.append(request_id)


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch) -> Callable[..., _Crew]:
    @asynccontextmanager
    async def transaction(*_: object, **__: object) -> AsyncIterator[None]:
        yield None

    async def reading(*_: object) -> Reading:
        return Reading((), 0.0)

    monkeypatch.setattr(embedding, "transaction", transaction)
    monkeypatch.setattr(embedding.signals, "reading", reading)

    def make(rows: int, pages: int, landing: Landings, step: int = 10, together: int = LANDING_ROWS) -> _Crew:
        """Rows in lane order over so many pages, in requests of `step`."""
        work = [Work(Row((str(at),), "text", all_null=False, place=(1, at % pages)), "text") for at in range(rows)]
        runs = deque([list(range(rows))[at : at + step] for at in range(0, rows, step)])
        parts: Any = SimpleNamespace(engine=None), Asked(), landing
        return _Crew(*parts, work, runs, LandingSize(60.0, float(together)), unresolved=rows)

    return make


async def run(crew: _Crew, senders: int = 4) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(senders):
            group.create_task(crew.send())
    await crew.land_rest()


async def test_p12_answers_land_together_but_never_two_rows_of_a_page(crew: Callable[..., _Crew]) -> None:
    landing = Landings()
    made = crew(2700, 270, landing)
    await run(made)
    assert sorted(position for group in landing.groups for position in group) == list(range(2700))
    assert all(len({position % 270 for position in group}) == len(group) <= LANDING_ROWS for group in landing.groups)
    assert len(landing.groups) < 90, "270 answers in far fewer transactions"
    assert landing.last == [False] * (len(landing.groups) - 1) + [True], "the checkpoint goes with the last of all"


@pytest.mark.parametrize("pages", [100, 363, 2000])
async def test_p12_a_page_rests_for_two_landings(pages: int, crew: Callable[..., _Crew]) -> None:
    """What one row left is pruned only when another process's landing that began before is over."""
    landing = Landings()
    await run(crew(4 * pages, pages, landing, together=LANDING_ROWS))
    landed_in = {position: number for number, group in enumerate(landing.groups) for position in group}
    rests = [landed_in[position + pages] - landed_in[position] - 1 for position in range(3 * pages)]
    assert min(rests) >= 2
    assert max(len(group) for group in landing.groups) <= max(pages // 3, 30)


async def test_p12_a_landing_of_rows_that_leave_their_pages_is_short(crew: Callable[..., _Crew]) -> None:
    """Each of them is told to every index, and others' pruning waits for as long as that takes."""
    landing, caught_up = Landings(), Landings(kind=Kind.DUTY)
    await run(crew(4 * 715, 715, landing, together=LANDING_ROWS))
    assert max(len(group) for group in landing.groups if min(group) < 715) <= LEAVING_ROWS
    assert max(len(group) for group in landing.groups if min(group) >= 715) > 2 * LEAVING_ROWS
    await run(crew(715, 715, caught_up, together=LANDING_ROWS))
    assert max(len(group) for group in caught_up.groups) > 2 * LEAVING_ROWS, "whose rows may find room where they lie"


async def test_p12_no_more_land_together_than_the_size_allows_and_no_answer_is_cut(
    crew: Callable[..., _Crew],
) -> None:
    for step, together, most in ((10, 30, 30), (50, 20, 50)):
        landing = Landings()
        await run(crew(600, 600, landing, step, together))
        assert max(len(group) for group in landing.groups) == most
        assert all(len(group) % step == 0 for group in landing.groups)


async def test_p2_no_more_than_one_landing_waits_while_the_provider_is_asked_on(
    crew: Callable[..., _Crew], monkeypatch: pytest.MonkeyPatch
) -> None:
    landing = Landings()
    made = crew(2000, 2000, landing)
    waiting: list[int] = []
    take = _Crew._land

    async def land(self: _Crew, answer: Answer) -> None:
        waiting.append(sum(len(each.positions) for each in self.arrived))
        await take(self, answer)

    monkeypatch.setattr(_Crew, "_land", land)
    await run(made)
    assert max(waiting) <= LANDING_ROWS + 4 * 10, "each sender may hold one answer more"
    assert max(waiting) > LEAVING_ROWS + 4 * 10, "short landings do not make the senders lose what the pace grants"


async def test_answers_left_by_a_landing_that_failed_are_landed(crew: Callable[..., _Crew]) -> None:
    landing = Landings(fail_at=2)
    made = crew(300, 300, landing)
    await run(made)
    assert isinstance(made.progress.failure, Defect)
    assert made.arrived == []
    assert made.progress.written == sum(map(len, landing.groups)) - len(landing.groups[1])
    assert not any(landing.last)


async def test_p7_every_answer_of_a_lost_lease_is_booked(crew: Callable[..., _Crew]) -> None:
    landing = Landings(fail_at=2, error=lambda: LeaseLost("batch:1#1"))
    made = crew(300, 300, landing)
    with pytest.raises(ExceptionGroup):
        await run(made)
    asked: Any = made.embedder
    waiting_then = {str(position) for position in landing.groups[1] if position % 10 == 0}
    assert waiting_then <= set(asked.spent)
    assert made.arrived == []


async def test_p2_rows_that_were_held_are_tried_again_before_anything_else_lands(crew: Callable[..., _Crew]) -> None:
    """A row that the application moved lies where another batch may find it, until its vector is written."""

    class Moved(Landings):
        async def land(self, _: object, work: Sequence[Work], answers: Sequence[Answer], *, last: bool) -> Landed:
            landed = await super().land(_, work, answers, last=last)
            held = [Held(work[0], np.zeros(2, "<f4"))] if len(self.groups) in {1, 5} else []
            return Landed(landed.written - len(held), held)

        async def land_held(self, _: object, held: Sequence[Held], *, finish: bool, give_up: bool) -> Landed:
            assert not give_up
            self.groups.append([-1])
            self.last.append(finish)
            return Landed(len(held), [])

    landing = Moved()
    made = crew(300, 300, landing, together=100)
    await run(made)
    assert [number for number, group in enumerate(landing.groups) if group == [-1]] == [1, 5]
    assert made.held == []
    assert made.progress.written == 300
