"""What P8 speaks of: an application that runs statements all the time, and a reader that holds its locks."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg

from migrator.target import message

#: Seconds that P8 allows a bystander: one try's deadline, 50 ms, and what a busy test machine adds to any statement.
SLACK_SECONDS = 0.15


ALLOWED_SECONDS = message.DEADLINE_SECONDS + 0.05 + SLACK_SECONDS


APPLICATION = (
    "SELECT count(*) FROM docs",
    "SELECT embedding FROM docs_view LIMIT 3",
    "UPDATE docs SET n = n + 1 WHERE id = 2",
)


@contextmanager
def bystander(url: str, statements: Sequence[str]) -> Iterator[list[tuple[float, str]]]:
    """An application that runs statements all the time, at READ COMMITTED; collects (seconds, error)."""
    stop, seen = threading.Event(), list[tuple[float, str]]()

    def live() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            while not stop.is_set():
                for statement in statements:
                    began = time.monotonic()
                    try:
                        connection.execute(statement.encode())
                        error = ""
                    except psycopg.Error as caught:
                        error = f"{statement}: {caught}"
                    seen.append((time.monotonic() - began, error))
                time.sleep(0.001)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def worst(seen: list[tuple[float, str]]) -> float:
    assert [error for _, error in seen if error] == []
    assert len(seen) > 50
    return max(seconds for seconds, _ in seen)


@contextmanager
def holding(url: str, statement: str, seconds: float) -> Iterator[threading.Event]:
    """A long reader: a transaction that keeps its locks for a while."""
    taken = threading.Event()

    def hold() -> None:
        with psycopg.connect(url, application_name="long reader") as connection:
            connection.execute(statement.encode())
            taken.set()
            time.sleep(seconds)

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait(10)
    try:
        yield taken
    finally:
        thread.join()
