"""Floor 0: generations, templates, scopes, windows."""

from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


def test_days_are_those_on_which_a_window_opens() -> None:
    """Friday's night ends on Saturday morning; Sunday's does not begin."""
    window = Window.parse("Mon-Fri 22:00-06:00 UTC")
    assert window.is_open(datetime(2026, 11, 28, 5, 59, tzinfo=UTC)), "Saturday, before six"
    assert not window.is_open(datetime(2026, 11, 28, 22, 30, tzinfo=UTC))
    assert not window.is_open(datetime(2026, 11, 30, 1, tzinfo=UTC)), "Monday morning is Sunday's night"
    assert window.is_open(datetime(2026, 11, 30, 22, tzinfo=UTC))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("mon-fri 22:00-06:00 UTC", "mon-fri 22:00-06:00 UTC"),
        ("sat,sun 00:00-23:59 UTC", "sat,sun 00:00-23:59 UTC"),
        ("sat,sun 00:00-24:00 UTC", "sat,sun 00:00-24:00 UTC"),
        ("22:00-24:00 UTC", "22:00-24:00 UTC"),
        ("22:00-00:00 UTC", "22:00-24:00 UTC"),
        ("fri-mon 01:00-02:00 UTC", "mon,fri-sun 01:00-02:00 UTC"),
        ("mon-sun 01:00-02:00 UTC", "01:00-02:00 UTC"),
        ("wed,mon 01:00-02:00 UTC", "mon,wed 01:00-02:00 UTC"),
    ],
)
def test_a_window_is_told_as_it_is_read(text: str, told: str) -> None:
    assert str(Window.parse(text)) == told
    assert Window.parse(told) == Window.parse(text)


def test_a_window_that_ends_at_24_ends_at_midnight() -> None:
    weekend = Window.parse("sat,sun 00:00-24:00 Asia/Shanghai")
    begin, end = datetime(2026, 11, 27, 16, tzinfo=UTC), datetime(2026, 11, 29, 16, tzinfo=UTC)
    assert windows.opens_at([weekend], begin - timedelta(hours=9)) == begin
    assert windows.closes_at([weekend], begin) == end, "without a gap between the days"
    assert windows.closes_at([Window.parse("00:00-24:00 UTC")], begin) is None


@pytest.mark.parametrize(
    ("text", "opens", "closes"),
    [
        # 29 March 2026, Berlin: 02:00 is followed by 03:00, at 01:00 UTC. 25 October: 02:00 to 03:00 comes twice.
        ("22:00-02:30 Europe/Berlin", "2026-03-28T21:00", "2026-03-29T01:00"),
        ("02:30-04:00 Europe/Berlin", "2026-03-29T01:00", "2026-03-29T02:00"),
        ("22:00-02:30 Europe/Berlin", "2026-10-24T20:00", "2026-10-25T00:30"),
        ("02:30-04:00 Europe/Berlin", "2026-10-25T00:30", "2026-10-25T03:00"),
    ],
)
def test_a_window_ends_with_the_first_moment_that_the_clock_shows_its_end(text: str, opens: str, closes: str) -> None:
    """Also where that time is skipped or comes twice; it is never open twice in a night."""
    moment = datetime.fromisoformat(f"{opens}+00:00")
    found = next(Window.parse(text).openings(moment))
    assert found == (moment, datetime.fromisoformat(f"{closes}+00:00"))


def test_a_window_that_a_clock_change_skips_is_not_opened() -> None:
    window = Window.parse("02:10-02:50 Europe/Berlin")
    assert not any(window.is_open(datetime(2026, 3, 29, hour, 30, tzinfo=UTC)) for hour in range(5))


_ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Shanghai", "Australia/Lord_Howe", "Pacific/Apia"]
_CLOCK = st.times().map(lambda each: each.replace(second=0, microsecond=0))
_WINDOWS = st.builds(
    Window, _CLOCK, _CLOCK, st.sampled_from(_ZONES), st.frozensets(st.integers(0, 6), min_size=1)
).filter(lambda each: each.start != each.end or each.end == time())
_MOMENTS = st.sampled_from([datetime(2011, 12, 20, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)]).flatmap(
    lambda first: st.integers(0, 365 * 86_400).map(lambda seconds: first + timedelta(seconds=seconds))
)


@settings(deadline=None, max_examples=300)
@given(st.lists(_WINDOWS, min_size=1, max_size=3), _MOMENTS)
def test_what_is_open_closes_and_what_is_closed_opens(some: list[Window], moment: datetime) -> None:
    """Over clock changes of an hour, of half an hour, and of a day (Apia, 30 December 2011)."""
    second = timedelta(seconds=1)
    opens, closes = windows.opens_at(some, moment), windows.closes_at(some, moment)
    assert all(Window.parse(str(each)) == each for each in some)
    if not windows.is_open(some, moment):
        assert closes == moment
        assert opens is None or (opens > moment and windows.is_open(some, opens))
        assert opens is None or not windows.is_open(some, opens - second)
        return
    assert opens == moment
    if closes is not None:
        assert closes > moment
        assert not windows.is_open(some, closes)
        assert windows.is_open(some, closes - second)
        assert all(windows.is_open(some, moment + (closes - moment) * part / 7) for part in range(7))


@pytest.mark.parametrize(
    ("moment", "before", "after"),
    [
        ("2026-11-24T12:00", "2026-11-24T00:05", "2026-11-25T00:05"),
        ("2026-11-24T00:05", "2026-11-24T00:05", "2026-11-25T00:05"),
        ("2026-11-24T00:04", "2026-11-23T00:05", "2026-11-24T00:05"),
    ],
)
def test_a_time_of_the_day_comes_once_a_day(moment: str, before: str, after: str) -> None:
    daily = windows.Daily.parse("08:05 Asia/Shanghai")
    at = datetime.fromisoformat(f"{moment}+00:00")
    assert (daily.before(at), daily.after(at)) == tuple(
        datetime.fromisoformat(f"{each}+00:00") for each in (before, after)
    )
    assert str(daily) == "08:05 Asia/Shanghai"
    assert str(windows.Daily.parse("00:00 UTC")) == "00:00 UTC"
    with pytest.raises(ValueError, match="no time zone"):
        windows.Daily.parse("08:05 Mars/Olympus")


@pytest.mark.parametrize(
    "text",
    [
        "22-06 UTC",
        "Someday 22:00-06:00 UTC",
        "mon- 22:00-06:00 UTC",
        "22:00-22:00 UTC",
        "24:00-06:00 UTC",
        "22:00-24:01 UTC",
        "22:00-25:00 UTC",
        "00:00-00:00 UTC",
        "22:00-06:00 Mars/Olympus",
    ],
)
def test_not_a_window(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        Window.parse(text)


def test_no_window_means_always() -> None:
    assert windows.is_open((), datetime.now(tz=UTC))
