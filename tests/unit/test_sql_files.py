"""What holds for every statement of ours, by its text."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from migrator import statements

ROOT = Path(str(files("migrator")))


def test_h4_every_transaction_of_a_message_says_its_isolation() -> None:
    """What waited for a lock must see what it waited for; the database's default may be another."""
    opened = [
        (path.name, name, opening)
        for path in ROOT.rglob("*.sql")
        for name, text in statements.load(path.relative_to(ROOT).as_posix()).items()
        for opening in re.findall(r"^(?:BEGIN|START TRANSACTION)\b[^\n]*;", text, re.MULTILINE)
    ]
    assert {file for file, _, _ in opened} >= {"message.sql", "rehearsal.sql"}
    assert {opening for _, _, opening in opened} == {"BEGIN ISOLATION LEVEL READ COMMITTED;"}
