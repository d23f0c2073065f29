"""The spec: one TOML file per migration, made to be reviewed and committed.

Floor 0. Promise: every problem is reported at once, each with its place and its mend; a spec that loads has
no unknown key, no wrong type and no impossible combination. It is frozen at `start`: `dump` and `restore`
are how it lives on in the database.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError

from migrator import events, queries, scope, signals
from migrator.endpoint import ENDINGS, OUR_OWN, ProfileOverrides, clean_base_url, is_our_own
from migrator.errors import OperatorError
from migrator.events import HooksSpec
from migrator.generation import Generation, Side
from migrator.limits import LimitsSpec
from migrator.queries import Query
from migrator.signals import ThrottleSpec
from migrator.template import Template
from migrator.thresholds import GatesSpec
from migrator.windows import Window


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a spec: where, what, and how to mend it."""

    place: str
    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}; {self.mend}"


@dataclass(eq=False)
class SpecInvalid(OperatorError):
    """The spec can't be used; `problems` holds every reason, a line each."""

    path: str
    problems: list[Problem]

    runbook = "first-migration"
    state = "Nothing was changed."
    next = "Mend the file, then run `migrator plan {path}`."

    def sentences(self) -> tuple[str, str, str]:
        """Return the three sentences, the first with a line per problem."""
        count = len(self.problems)
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        happened = f"{self.path} has {count} problem{'s'[: count != 1]}:{lines}\n"
        return happened, self.state, self.next.format(path=self.path)


def _template(text: str) -> str:
    Template.parse(text)
    return text


def _where(sql: str) -> str:
    scope.read(sql)
    return sql


def _price(value: object) -> tuple[float, float]:
    ends = [value, value] if isinstance(value, int | float) else value
    if (
        not isinstance(ends, list | tuple)
        or len(ends) != 2  # noqa: PLR2004 - a range has two ends
        or not all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends)
        or not 0 <= ends[0] <= ends[1]
    ):
        raise ValueError("it must be one number, or [low, high] with low <= high")
    return (float(ends[0]), float(ends[1]))


def _unique(names: list[str]) -> list[str]:
    if len(set(names)) != len(names):
        raise ValueError("a column is named twice")
    return names


_Column = Annotated[str, Field(pattern=r"^[^\x00]{1,63}$", description="a column's name as the catalog has it")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TargetSpec(_Part):
    """[target]: the live table and what in it is moved."""

    #: The live table; schema `public` where none is named.
    table: Annotated[str, Field(pattern=r"^[^.\x00]{1,63}(\.[^.\x00]{1,63})?$", description='"schema.table"')]
    #: Its vector column, which readers use.
    column: _Column
    #: The template of the text that a row's vector is made of; NULL counts as empty, and an empty text is skipped.
    text: Annotated[str, AfterValidator(_template), Field(description='a template such as "{title}\\n\\n{body}"')]
    #: The columns that tell rows apart, unique and NOT NULL; without, the primary key.
    key: Annotated[list[str], AfterValidator(_unique), Field(min_length=1, max_length=8)] | None = None
    #: The operator's own SQL: rows outside keep no new vector, and the plan counts them.
    where: Annotated[str, AfterValidator(_where)] | None = None
    #: true: rows that have a text and no vector are left alone.
    only_embedded: bool = False
    #: The operator's word that the table's own triggers may fire on every row that is filled; else they are silenced.
    fire_triggers: Annotated[bool, Field(description="true or false")] = False
    #: The operator's word that nobody searches the vectors of a logical subscriber, where generations mix (H5).
    subscribers: Annotated[Literal["not-searched"] | None, Field(description='"not-searched"')] = None
    #: And that each subscriber to whole rows has the shadow column, without which it stops.
    subscribers_have_shadow: Annotated[bool, Field(description="true or false")] = False

    @property
    def schema_name(self) -> str:
        """The table's schema; `public` where the spec names none."""
        return self.table.split(".")[0] if "." in self.table else "public"

    @property
    def table_name(self) -> str:
        """The table's own name."""
        return self.table.split(".")[-1]

    @property
    def template(self) -> Template:
        """The text template, parsed."""
        return Template.parse(self.text)

    @property
    def scope(self) -> scope.Scope | None:
        """The `where`, taken apart; None where every row is in scope."""
        return None if self.where is None else scope.read(self.where)


_Dims = Annotated[int, Field(ge=1, le=16000, description="a whole number, as in 1024")]
_Name = Annotated[str, Field(pattern=r"^[^\s@'\"\\]{1,200}$", description='a model id, as in "qwen/text-embedding-v4"')]
_Url = Annotated[str, AfterValidator(clean_base_url)]
_KeyName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="the NAME of a variable, never a key"),
]
_Price = Annotated[
    tuple[float, float],
    BeforeValidator(_price),
    Field(description="US dollars per million tokens: one number, or [low, high]"),
]


_Overrides = Annotated[
    ProfileOverrides | None, Field(description="a table of limits and habits, as in [to.profile_overrides]")
]


class ModelSpec(_Part):
    """[to], and [from] after `from_model` has filled it from [to]: how texts become vectors."""

    #: The model's id, as requests name it.
    model: _Name
    #: How many dimensions are asked for.
    dimensions: _Dims
    #: The endpoint without `/embeddings`; texts go there and nowhere else.
    base_url: _Url
    #: The variable of the environment that holds the key.
    api_key_env: _KeyName = "THE_ROUTER_API_KEY"
    #: The endpoint's limits and habits by name; chosen by its host where it is left out, `generic` where unknown.
    profile: str | None = None
    profile_overrides: _Overrides = None
    #: The shadow column's type; without, the live column's.
    column_type: Literal["vector", "halfvec"] | None = None
    #: The cap counts with the highest.
    price_usd_per_mtok: _Price

    @property
    def generation(self) -> Generation:
        """MODEL@DIMS."""
        return Generation(self.model, self.dimensions)


class OldModelSpec(_Part):
    """[from] as it is written: model and dimensions, the rest defaulting to [to]'s."""

    #: The model's id, as requests name it.
    model: _Name
    #: How many dimensions are asked for.
    dimensions: _Dims
    #: This and what follows: without, as in `[to]`.
    base_url: _Url | None = None
    #: As in `[to]`.
    api_key_env: _KeyName | None = None
    #: As in `[to]`.
    profile: str | None = None
    profile_overrides: _Overrides = None
    #: Taken and not used: the live column has its type.
    column_type: Literal["vector", "halfvec"] | None = None
    #: As in `[to]`.
    price_usd_per_mtok: _Price | None = None


class Spec(_Part):
    """A whole spec."""

    #: The migration's name, used once.
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,47}$", description='lower case, as in "docs"')]
    target: TargetSpec
    from_: Annotated[OldModelSpec, Field(alias="from")]
    to: ModelSpec
    limits: LimitsSpec
    gates: GatesSpec = GatesSpec()
    throttle: ThrottleSpec = ThrottleSpec()
    hooks: HooksSpec | None = None
    #: What was mended silently would surprise: the plan says it.
    _notices: tuple[Problem, ...] = PrivateAttr(default=())
    #: What `[gates] queries` names, read with the spec's own file; the plan stores it.
    _queries: tuple[Query, ...] = PrivateAttr(default=())

    def __eq__(self, other: object) -> bool:
        """Compare what is frozen: a spec read from its file is the one that was stored."""
        return isinstance(other, Spec) and self.dump() == other.dump()

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def queries(self) -> tuple[Query, ...]:
        """The operator's queries, if the spec was read from a file that names some."""
        return self._queries

    @property
    def notices(self) -> tuple[Problem, ...]:
        """What was mended while the file was read."""
        return self._notices

    def model_of(self, side: Side) -> ModelSpec:
        """Return how texts are embedded on that side, [from] filled up from [to]."""
        if side is Side.TO:
            return self.to
        named = {name: getattr(self.from_, name) for name in OldModelSpec.model_fields}
        own = {name: value for name, value in named.items() if value is not None}
        return self.to.model_copy(update={"column_type": None, **own})

    @property
    def windows(self) -> tuple[Window, ...]:
        """The hours in which work may be done; none means always."""
        return tuple(Window.parse(text) for text in self.limits.window)

    def generation(self, side: Side) -> Generation:
        """Return MODEL@DIMS of that side."""
        return self.model_of(side).generation

    def dump(self) -> dict[str, Any]:
        """Return what is frozen in the database; `restore` reads it back."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def load(path: Path) -> Spec:
    """Read a spec file.

    Raises: SpecInvalid, with every problem at once.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        problem = Problem("file", f"it can't be read ({error.strerror})", "check the path")
        raise SpecInvalid(str(path), [problem]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problem = Problem("file", f"it is no TOML ({error})", "mend the line it names")
        raise SpecInvalid(str(path), [problem]) from None
    spec = parse(data, str(path))
    keys = {"from": spec.from_.api_key_env, "to": spec.to.api_key_env}
    if ours := [Problem(f"[{part}] api_key_env", *OUR_OWN) for part, name in keys.items() if is_our_own(name or "")]:
        raise SpecInvalid(str(path), ours)
    if spec.gates.queries is not None:
        columns = None if spec.target.key is None else len(spec.target.key)
        found, wrong = queries.read(path.parent / spec.gates.queries, columns)
        if wrong:
            raise SpecInvalid(str(path), [Problem(f"[gates] queries {where}", *told) for where, *told in wrong])
        spec._queries = tuple(found)  # noqa: SLF001 - as the notices
    return spec


def restore(data: dict[str, Any]) -> Spec:
    """Read back what `dump` wrote."""
    return parse(data, "the stored spec")


def parse(data: dict[str, Any], path: str) -> Spec:
    """Check a spec's data.

    Raises: SpecInvalid, with every problem at once.
    """
    problems = _impossible(data)
    try:
        spec = Spec.model_validate(data)
    except ValidationError as error:
        problems = [_problem(detail) for detail in error.errors(include_url=False)] + problems
    if problems:
        raise SpecInvalid(path, _once(problems))
    spec._notices = _mended(data)  # noqa: SLF001 - it is ours; pydantic keeps it out of what is dumped
    return spec


def _mended(data: dict[str, Any]) -> tuple[Problem, ...]:
    """Say which base URLs lost an ending that belongs to a request."""
    found = []
    for part in ("from", "to"):
        url = data[part].get("base_url")
        for ending in ENDINGS:
            if isinstance(url, str) and url.rstrip("/").endswith(ending):
                what = f"it ends in {ending}, which was left off: requests go to BASE/embeddings, and nowhere else"
                found.append(Problem(f"[{part}] base_url", what, "write the base alone"))
    return tuple(found)


def _impossible(data: dict[str, Any]) -> list[Problem]:
    """Find combinations that no single key shows; tolerant, since the keys may be wrong themselves."""
    problems = []
    old, new = data.get("from"), data.get("to")
    if isinstance(old, dict) and isinstance(new, dict):
        same = all(old.get(key) is not None and old.get(key) == new.get(key) for key in ("model", "dimensions"))
        if same:
            problems.append(Problem("[to] model", "it is the same generation as [from]", "name the model to move to"))
    for part, model in (("from", old), ("to", new)):
        overrides = model.get("profile_overrides") if isinstance(model, dict) else None
        if isinstance(overrides, dict):
            text, request = overrides.get("max_text_tokens"), overrides.get("max_request_tokens")
            if isinstance(text, int) and isinstance(request, int) and text > request:
                place = f"[{part}.profile_overrides] max_text_tokens"
                problems.append(Problem(place, "it is above max_request_tokens", "no request can hold such a text"))
    target = data.get("target")
    if isinstance(target, dict) and isinstance(target.get("text"), str):
        column = target.get("column")
        if isinstance(column, str) and f"{{{column}}}" in target["text"]:
            problems.append(Problem("[target] text", f"it embeds the vector column {column}", "name text columns only"))
    for part, impossible in (("throttle", signals.impossible), ("hooks", events.impossible)):
        if isinstance(data.get(part), dict):
            problems += [Problem(f"[{part}] {key}", what, mend) for key, what, mend in impossible(data[part])]
    return problems


def _problem(detail: Any) -> Problem:
    """Turn one of pydantic's findings into ours. Values are never quoted: one might be a pasted key."""
    location = [str(part) for part in detail["loc"] if not str(part).startswith(("function-", "constrained-"))]
    path, field = _walk(location)
    place = f"[{'.'.join(path[:-1])}] {path[-1]}" if len(path) > 1 else (path[0] if path else "file")
    hint = getattr(field, "description", None)
    if detail["type"] == "missing":
        return Problem(place, "it is missing", f"add it: {hint}" if hint else "add it")
    if detail["type"] == "extra_forbidden":
        known = _keys(path[:-1])
        near = difflib.get_close_matches(path[-1], known, n=1)
        return Problem(
            place,
            "there is no such key",
            f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}",
        )
    what = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if detail["type"] == "string_pattern_mismatch":
        what = "it is not of the form that is needed"
    return Problem(place, what, f"write {hint}" if hint else "see the sample spec in the README")


def _walk(location: list[str]) -> tuple[list[str], Any]:
    """Return the keys of a location and the last one's field; what stands below a key (a list's item) is left out."""
    part: type[BaseModel] | None = Spec
    path: list[str] = []
    field = None
    for name in location:
        if part is None:
            break
        field = next((each for key, each in part.model_fields.items() if name in (key, each.alias)), None)
        path.append(name)
        part = _part_of(field)
    return path, field


def _part_of(field: Any) -> type[BaseModel] | None:
    """Return the table that a key holds, if it holds one."""
    kind = getattr(field, "annotation", None)
    kinds = [kind, *get_args(kind), *(inner for each in get_args(kind) for inner in get_args(each))]
    return next((each for each in kinds if isinstance(each, type) and issubclass(each, BaseModel)), None)


def _keys(path: list[str]) -> list[str]:
    part = _part_of(_walk(path)[1]) if path else Spec
    return [field.alias or name for name, field in part.model_fields.items()] if part is not None else []


def _once(problems: list[Problem]) -> list[Problem]:
    """Keep the first problem of each place: a union of types reports one finding per type."""
    seen: dict[str, Problem] = {}
    for problem in problems:
        seen.setdefault(problem.place, problem)
    return list(seen.values())
