"""Floor 0: generations, templates, scopes, windows."""

from datetime import UTC, datetime

import pytest

from migrator import scope, windows
from migrator.generation import Generation, Side
from migrator.template import Template, TemplateError
from migrator.windows import Window


def test_generation_is_model_at_dims() -> None:
    assert str(Generation.parse("qwen/text-embedding-v4@1024")) == "qwen/text-embedding-v4@1024"
    assert Side.FROM.other is Side.TO


@pytest.mark.parametrize("text", ["v4", "v4@", "v4@0", "v 4@10", "v4@1024@2", "v'4@10", "@10"])
def test_not_a_generation(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        Generation.parse(text)


def test_template_keeps_literals_and_columns() -> None:
    template = Template.parse("{title}\n\n{{{body}}} {title}")
    assert template.columns == ("title", "body")
    assert template.parts == (
        (True, "title"),
        (False, "\n\n{"),
        (True, "body"),
        (False, "} "),
        (True, "title"),
    ) or (
        "".join(value if not column else f"<{value}>" for column, value in template.parts)
        == "<title>\n\n{<body>} <title>"
    )


@pytest.mark.parametrize("text", ["{title", "{}", "{title!r}", "{title:>10}", "{a.b}", "{a[0]}", "plain", "}"])
def test_not_a_template(text: str) -> None:
    with pytest.raises(TemplateError):
        Template.parse(text)


def test_scope_knows_its_words_and_functions() -> None:
    read = scope.read("""deleted_at IS NULL AND lower("Kind") IN ('a', 'it''s') AND (n > 1.5 OR length(x) = 2)""")
    assert {"deleted_at", "Kind", "n", "x"} <= read.words
    assert read.functions == {"lower", "length"}


@pytest.mark.parametrize(
    "sql",
    [
        "id IN (SELECT 1)",
        "a = 1; DROP TABLE docs",
        "a = 1 -- x",
        "a /* x */ = 1",
        "at > CURRENT_TIMESTAMP",
        "owner = current_user",
        "app.mine(id)",
        "a = 'x",
        "(a = 1",
        "a = 1)",
        "a = $1",
        " ",
    ],
)
def test_h25_what_cannot_stand_in_a_trigger(sql: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        scope.read(sql)


@pytest.mark.parametrize(
    ("moment", "expected"),
    [("14:00", True), ("21:59", True), ("22:00", False), ("13:59", False), ("03:00", False)],
)
def test_a_window_past_midnight_in_another_zone(moment: str, expected: bool) -> None:  # noqa: FBT001
    window = Window.parse("22:00-06:00 Asia/Shanghai")  # UTC+8: open from 14:00 to 22:00 UTC
    hour, minute = map(int, moment.split(":"))
    assert window.is_open(datetime(2026, 11, 23, hour, minute, tzinfo=UTC)) is expected


def test_a_window_over_a_clock_change() -> None:
    """Berlin, 25 October 2026: 03:00 comes twice; both hours before 06:00 are inside."""
    window = Window.parse("22:00-06:00 Europe/Berlin")
    opened = [
        window.is_open(datetime(2026, 10, 24, 20, tzinfo=UTC).replace(day=24 + h // 24, hour=h % 24))
        for h in range(20, 30)
    ]
    assert opened == [True] * 9 + [False]


@pytest.mark.parametrize("text", ["22-06 UTC", "22:00-22:00 UTC", "24:00-06:00 UTC", "22:00-06:00 Mars/Olympus"])
def test_not_a_window(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        Window.parse(text)


def test_no_window_means_always() -> None:
    assert windows.is_open((), datetime.now(tz=UTC))
