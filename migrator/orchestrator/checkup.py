"""The check-up behind `migrator doctor`: every server and setting, each with ok, warn or fail, and its mend.

Floor 3. Promise: a check that can't be made is a failed check, never a traceback; no secret is shown.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.errors import MigratorError
from migrator.generation import Side
from migrator.lifecycle import OPEN
from migrator.measures import cosine
from migrator.orchestrator import origin
from migrator.planning import broker, preflight, survey
from migrator.provenance.page import Page
from migrator.provider import client, profiles
from migrator.provider.catalogue import Action
from migrator.provider.client import LostError, RefusedError, Reply, UnbelievableError
from migrator.settings import SettingInvalid, Settings, secret
from migrator.spec import ModelSpec, Spec
from migrator.state import canary, migrations, schema, workers
from migrator.state.canary import STEADY_COSINE, Canary
from migrator.state.connection import make_engine, transaction
from migrator.target import capture, facts

Level = Literal["ok", "warn", "fail"]
#: What a broker that answers can be found wanting in.
_BROKER_CHECKS = {"broker_evicts": "memory", "broker_forgets": "file", "broker_shared": "database"}
_LEVELS: dict[str, Level] = {"refuse": "fail", "warn": "warn", "info": "ok"}
#: Answers for one text that are laid side by side, a request each: two regions that take turns show at once, and two
#: that are drawn by lot stay hidden in one look of sixteen. A few tokens.
_SAME_TEXT_TIMES = 5
#: Where one of these failed, nobody can make old vectors again.
_NEEDED_FOR_PROVENANCE = frozenset({"database", "pgvector", "target", f"provider [{Side.FROM}]"})


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at."""

    name: str
    level: Level
    message: str
    mend: str = ""
    #: What there is to read beyond a line: the page on provenance.
    page: Page | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the shape that `doctor --json` prints."""
        shown = asdict(self)
        if self.page is None:
            del shown["page"]
        return shown


def _ok(name: str, message: str) -> Check:
    return Check(name, "ok", message)


async def run(settings: Settings, spec: Spec | None) -> list[Check]:
    """Look at everything."""
    found = await _database_checks(settings, spec)
    found += await _guarded("broker", lambda: _broker(settings.broker_url))
    if spec is not None:
        found += await _guarded("provider", lambda: _provider(spec))
        if all(each.level != "fail" for each in found if each.name in _NEEDED_FOR_PROVENANCE):
            found += await _guarded("provenance", lambda: _provenance(settings, spec))
    return found


async def _guarded(name: str, look: Callable[[], Awaitable[list[Check]]]) -> list[Check]:
    try:
        return await look()
    except MigratorError as error:
        happened, _, following = error.sentences()
        return [Check(name, "fail", happened, following)]


async def _database_checks(settings: Settings, spec: Spec | None) -> list[Check]:
    try:
        engine = make_engine(settings.required_database_url(), "migrator doctor", pool_size=1)
    except MigratorError as error:
        return [Check("database", "fail", error.sentences()[0], error.sentences()[2])]
    try:
        found = await _guarded("database", lambda: _database(engine))
        if found[-1].level == "fail":
            return found
        found += await _guarded("schema", lambda: _schema(engine))
        if spec is not None:
            found += await _guarded("target", lambda: _target(engine, spec))
    finally:
        await engine.dispose()
    return found


async def _database(engine: AsyncEngine) -> list[Check]:
    async with transaction(engine, read_only=True) as connection:
        server = await facts.server(connection)
        extension = await facts.extension(connection)
    version = f"{server['version'] // 10000}.{server['version'] % 10000}"
    found = [_ok("database", f"PostgreSQL {version} as role {server['role']}")]
    if server["version"] < preflight.OLDEST_SERVER:
        found = [Check("database", "fail", f"PostgreSQL {version} is older than 14", "Upgrade the server.")]
    if extension is None:
        mend = "Run `CREATE EXTENSION vector` as a superuser."
        return [*found, Check("pgvector", "fail", "it is not installed in this database", mend)]
    return [*found, _ok("pgvector", f"version {extension[0]} in schema {extension[1]}")]


async def _schema(engine: AsyncEngine) -> list[Check]:
    async with transaction(engine) as connection:
        await schema.require(connection)
        alive = await workers.alive(connection)
        opened = await migrations.list_all(connection, OPEN)
        late = []
        for migration in opened:
            relation = await facts.relation(connection, migration.target_schema, migration.target_table)
            triggers = await facts.triggers(connection, relation.oid) if relation is not None else []
            late += [
                f"{each['name']} on {migration.target_table}"
                for each in triggers
                if each["before"] and each["on_update"] and each["name"] > capture.TRIGGERS["update"]
            ]
        canaries = {each.name: await canary.find(connection, each.id) for each in opened}
    found = [_ok("schema", f"revision {schema.head()}; {len(opened)} open migrations")]
    if alive:
        names = ", ".join(f"{row.name} ({row.slots} slots)" for row in alive)
        found.append(_ok("workers", names))
    else:
        mend = "Run `celery -A workers.app worker` and `celery -A workers.app beat`, or use `migrator work NAME`."
        found.append(Check("workers", "warn", "none is alive", mend))
    if late:
        mend = f"Rename it so that it sorts before {capture.TRIGGERS['update']}."
        found.append(Check("triggers", "fail", f"fires after our capture trigger: {', '.join(late)}", mend))
    return found + [_canary(name, each) for name, each in canaries.items() if each is not None]


def _canary(name: str, found: Canary) -> Check:
    if found.moved_cosine is not None:
        mend = f"Ask the provider what changed, then run `migrator resume {name}`."
        return Check(f"canary of {name}", "fail", f"it moved, to cosine {found.moved_cosine:.5f}", mend)
    if found.lowest_cosine < STEADY_COSINE:
        what = f"the same texts came back with cosine {found.lowest_cosine:.5f}"
        return Check(f"canary of {name}", "warn", what, _UNSTEADY_MEND)
    return _ok(f"canary of {name}", f"steady over {found.checks} checks")


async def _provenance(settings: Settings, spec: Spec) -> list[Check]:
    page = await origin.look(settings, spec)
    if page is None:
        return [_ok("provenance", "the new generation is live, so the old vectors need no proof")]
    level: dict[str, Level] = {"fits": "ok", "unknown": "warn", "misfits": "fail"}
    return [Check("provenance", level[page.outcome], page.sentence, f"{page.do}.", page)]


async def _target(engine: AsyncEngine, spec: Spec) -> list[Check]:
    findings = preflight.check(await survey.make(engine, spec))
    bad = [each for each in findings if each.severity == "refuse"]
    if not bad:
        return [_ok("target", f"{spec.target.table}.{spec.target.column} can be moved")]
    return [Check("target", "fail", f"{each.object}: {each.message}", each.mend) for each in bad]


async def _broker(url: str) -> list[Check]:
    seen = await broker.look(url)
    told = list(broker.check(seen))
    if not seen.answers:
        return [Check("broker", "fail", f"{seen.shown} {each.message}", _sentence(each.mend)) for each in told]
    kind = f", Redis protocol {seen.version}" if seen.version is not None else ""
    return [
        _ok("broker", f"{seen.shown}{kind}"),
        *(
            Check(f"broker {_BROKER_CHECKS[each.code]}", _LEVELS[each.severity], each.message, _sentence(each.mend))
            for each in told
        ),
    ]


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


async def _provider(spec: Spec) -> list[Check]:
    return [each for side in (Side.TO, Side.FROM) for each in await _model(spec, side)]


def _key(name: str, variable: str) -> str | Check:
    """Return the provider's key, or why there is none here."""
    try:
        key = secret(variable)
    except SettingInvalid as error:
        return Check(name, "fail", error.sentences()[0].rstrip("."), error.sentences()[-1])
    if key is None:
        mend = f"Set {variable} in the environment, here and on every worker."
        return Check(name, "fail", f"{variable} is not set here", mend)
    return key


async def _model(spec: Spec, side: Side) -> list[Check]:
    model = spec.model_of(side)
    name = f"provider [{side}]"
    key = _key(name, model.api_key_env)
    if isinstance(key, Check):
        return [key]
    profile = profiles.of(model)
    http = client.make_http(key)
    replies: list[Reply] = []
    try:
        for _ in range(_SAME_TEXT_TIMES):
            replies.append(  # noqa: PERF401 - what came before a refusal is kept
                await client.post(
                    http,
                    model.base_url,
                    model.generation,
                    ["ready"],
                    request_id=uuid.uuid4().hex,
                    send_dimensions=profile.send_dimensions,
                    dialect=profile.dialect,
                )
            )
    except RefusedError as error:
        if replies and error.refusal.action is Action.THROTTLE:
            return [_answers(name, model, replies)]  # a low limit is no reason to fail
        mend = error.refusal.hint[:1].upper() + error.refusal.hint[1:] + "."
        return [Check(name, "fail", f"{model.generation}: {error.refusal}", mend)]
    except LostError as error:
        return [Check(name, "fail", f"{model.base_url} can't be reached ({error.why})", "Check base_url and network.")]
    except UnbelievableError as error:
        return [Check(name, "fail", f"{model.generation}: {error.why}", "Check [to] model and dimensions.")]
    finally:
        await http.aclose()
    return [_answers(name, model, replies)]


def _answers(name: str, model: ModelSpec, replies: list[Reply]) -> Check:
    """Say whether the same text came back as the same vector every time (R3)."""
    used = f"{sum(each.tokens for each in replies)} tokens, which no migration's cap counts"
    first = np.repeat(replies[0].vectors, len(replies), axis=0)
    lowest = float(cosine.paired(first, np.concatenate([each.vectors for each in replies])).min())
    if lowest < STEADY_COSINE:
        what = f"the same text came back as different vectors (lowest cosine {lowest:.5f}; {used})"
        return Check(name, "warn", what, _UNSTEADY_MEND)
    dims = replies[0].vectors.shape[1]
    return _ok(name, f"{model.generation} answers with {dims} dimensions, {len(replies)} times the same ({used})")


_UNSTEADY_MEND = "Several regions or machines answer in turns: pin one where the gateway lets you ([to] base_url)."
