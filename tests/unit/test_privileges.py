"""Rights in the words of SQL: a name is quoted where it has to be, and none can end what it stands in."""

from __future__ import annotations

import pytest

from migrator.target import privileges

NAMES = [
    ("app", "app"), ("my role", '"my role"'), ("App", '"App"'), ('a"b', '"a""b"'), ("1st", '"1st"'), ("é", '"é"'),
    ("app\n", '"app\n"'), ("user", '"user"'), ("a$b", '"a$b"'), ("50%", '"50%"'), ("K", '"K"'),
]  # fmt: skip


@pytest.mark.parametrize(("name", "said"), NAMES)
def test_a_name_in_a_grant_is_quoted_where_it_must_be(name: str, said: str) -> None:
    assert privileges.quoted(name) == said
    assert privileges.quoted("s", name) == f"s.{said}"
    assert privileges.be_owner("owner", name).as_string() == f"GRANT owner TO {said}"


def test_no_name_ends_a_block() -> None:
    said = privileges.make_role("a$migrator$; DROP TABLE docs; --").as_string()
    assert said.startswith("DO $migrator_0$")
    assert said.endswith("$migrator_0$")
    assert said.count("$migrator_0$") == 2
