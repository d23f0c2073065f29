"""Scenarios: a rehearsal as a small TOML file, a list of steps that turn the simulator's switches as requests arrive.

Floor 4. Promise: a scenario that loads has no unknown key, no wrong value and no step that never comes; every problem
is told at once with its place and its mend, before the simulator listens.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from migrator.demo.simulator.behaviour import BehaviourInvalid, check, mend_name
from migrator.errors import OperatorError
from migrator.spec import Problem

_FOLDER = "scenarios"
_KEYS = frozenset({"about", "start", "step"})
_STEP_KEYS = frozenset({"after_requests", "at_seconds", "say", "set"})


@dataclass(eq=False)
class ScenarioInvalid(OperatorError):
    """The scenario can't be used; `problems` holds every reason, a line each."""

    path: str
    problems: list[Problem]

    runbook = "rehearsal-not-started"
    state = "Nothing was started."
    next = "Mend the file, then run `migrator simulate --scenario {path} --dry-run`."

    def sentences(self) -> tuple[str, str, str]:
        """Return the three sentences, the first with a line per problem."""
        count = len(self.problems)
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        happened = f"The scenario {self.path} has {count} problem{'s'[: count != 1]}:{lines}\n"
        return happened, self.state, self.next.format(path=self.path)


@dataclass(frozen=True, slots=True)
class Step:
    """What changes once so many requests have arrived, or so many seconds passed since the first."""

    set: dict[str, Any]
    after_requests: int | None = None
    at_seconds: float | None = None
    say: str | None = None

    def due(self, arrived: int, seconds: float) -> bool:
        """Say whether it is time, before the next request is answered."""
        if self.after_requests is not None:
            return arrived >= self.after_requests
        return self.at_seconds is not None and seconds >= self.at_seconds

    @property
    def when(self) -> str:
        """When it comes, for people."""
        if self.after_requests is not None:
            return f"after {self.after_requests} requests"
        return f"{self.at_seconds:g} s after the first request"

    @property
    def told(self) -> str:
        """What it does, for people."""
        return self.say or ", ".join(f"{name} = {value}" for name, value in self.set.items())


@dataclass(frozen=True, slots=True)
class Scenario:
    """A whole rehearsal."""

    about: str = ""
    start: dict[str, Any] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()


def shipped() -> list[str]:
    """Return the names of the scenarios in the package."""
    names = (each.name for each in files(__package__).joinpath(_FOLDER).iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def load(name: str) -> Scenario:
    """Read a scenario: one of the package's by its name, else a file.

    Raises: ScenarioInvalid, with every problem at once.
    """
    try:
        if name in shipped():
            text = files(__package__).joinpath(_FOLDER, f"{name}.toml").read_text(encoding="utf-8")
        else:
            text = Path(name).read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except OSError as error:
        mend = f"check the path, or name one of {', '.join(shipped())}"
        raise ScenarioInvalid(name, [Problem("file", f"it can't be read ({error.strerror})", mend)]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problem = Problem("file", f"it is no TOML ({error})", "mend the line it names")
        raise ScenarioInvalid(name, [problem]) from None
    return parse(data, name)


def parse(data: Mapping[str, Any], path: str) -> Scenario:
    """Check a scenario's data.

    Raises: ScenarioInvalid, with every problem at once.
    """
    problems = [Problem(key, "there is no such key", mend_name(key, sorted(_KEYS))) for key in data if key not in _KEYS]
    about = data.get("about", "")
    if not isinstance(about, str):
        problems.append(Problem("about", "it is no text", "say in a sentence what is rehearsed"))
    start = _switches(data.get("start", {}), "[start]", problems)
    given = data.get("step", [])
    if not isinstance(given, list):
        problems.append(Problem("step", "it is no list", "write each step under [[step]]"))
        given = []
    steps = [_step(each, f"step {number}", problems) for number, each in enumerate(given, start=1)]
    if not start and not given:
        problems.append(Problem("step", "nothing ever happens", "add a [[step]] or a [start]"))
    if problems:
        raise ScenarioInvalid(path, problems)
    return Scenario(about, start, tuple(steps))


def read_steps(given: Any) -> list[Step]:
    """Read steps that an admin request brings.

    Raises: BehaviourInvalid.
    """
    problems: list[Problem] = []
    listed = given if isinstance(given, list) else [given]
    steps = [_step(each, f"step {number}", problems) for number, each in enumerate(listed, start=1)]
    if problems:
        raise BehaviourInvalid(problems)
    return steps


def _step(data: Any, place: str, problems: list[Problem]) -> Step:
    if not isinstance(data, dict):
        problems.append(Problem(place, "it is no table", "write after_requests or at_seconds, and set"))
        return Step({})
    problems += [
        Problem(f"{place} {key}", "there is no such key", mend_name(key, sorted(_STEP_KEYS)))
        for key in data
        if key not in _STEP_KEYS
    ]
    after, at, say = data.get("after_requests"), data.get("at_seconds"), data.get("say")
    if (after is None) == (at is None):
        problems.append(Problem(place, "it needs exactly one of after_requests and at_seconds", "keep or add one"))
    if after is not None and (not isinstance(after, int) or isinstance(after, bool) or after < 0):
        problems.append(Problem(f"{place} after_requests", "it is no whole number from 0", "write it as in 20"))
    if at is not None and (not isinstance(at, int | float) or isinstance(at, bool) or at < 0):
        problems.append(Problem(f"{place} at_seconds", "it is no number from 0", "write it as in 30 or 1.5"))
    if say is not None and not isinstance(say, str):
        problems.append(Problem(f"{place} say", "it is no text", "write what is told when the step is taken"))
    wanted = _switches(data.get("set", {}), f"{place} set", problems)
    if not wanted:
        problems.append(Problem(f"{place} set", "it sets nothing", 'name a switch, as in { account = "arrears" }'))
    return Step(wanted, after, at, say)


def _switches(wanted: Any, place: str, problems: list[Problem]) -> dict[str, Any]:
    if not isinstance(wanted, dict):
        problems.append(Problem(place, "it is no table", "write it as in { max_texts = 6 }"))
        return {}
    if "reset" in wanted:
        problems.append(Problem(f"{place} reset", "it would begin the scenario again", "use `unset` or `no_faults`"))
    try:
        check({name: value for name, value in wanted.items() if name != "reset"}, f"{place} ")
    except BehaviourInvalid as error:
        problems += error.problems
    return dict(wanted)
