"""Every finding, by its code: facts in, findings out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from migrator import spec as specs
from migrator.planning import preflight
from migrator.planning.findings import Severity
from migrator.planning.survey import Survey
from migrator.target.dependents import Dependent, LiveIndex
from migrator.target.facts import Column, Heap, Key, Relation
from migrator.target.publications import Publication


def spec(**target: Any) -> specs.Spec:
    data: dict[str, Any] = {
        "name": "docs",
        "target": {"table": "public.docs", "column": "embedding", "text": "{title}", **target},
        "from": {"model": "v3", "dimensions": 1024},
        "to": {"model": "v4", "dimensions": 1024, "base_url": "http://127.0.0.1:1/v1", "price_usd_per_mtok": 1.0},
        "limits": {"max_cost_usd": 1.0},
    }
    return specs.parse(data, "test")


def column(name: str, kind: str, **values: Any) -> Column:
    plain: dict[str, Any] = {
        "name": name, "number": 1, "type": kind, "full_type": kind, "type_name": kind, "modifier": -1,
        "not_null": False, "generated": False, "identity": False, "has_default": False,
        "has_grants": False, "granted_by_others": False, "storage": "x", "type_storage": "x", "statistics_target": -1,
        "compression": "", "has_options": False, "has_comment": False,
    }  # fmt: skip
    return Column(**{**plain, **values})


def survey() -> Survey:
    """A table that can be moved."""
    return Survey(
        spec=spec(),
        server={"version": 180006, "in_recovery": False, "standbys": [], "role": "me"},
        extension=("0.8.6", "public"),
        relation=Relation(
            oid=1, kind="r", persistence="p", is_partition=False, file=1, pages=1, estimated_rows=1,
            row_security=False, force_row_security=False, is_owner=True, may_select=True, inherits=False,
            bypasses_rls=True, table_bytes=1, replica_identity="d",
        ),
        columns={
            "id": column("id", "bigint"),
            "title": column("title", "text"),
            "embedding": column("embedding", "vector", modifier=1024),
        },
        keys=[Key(("id",), ("bigint",), is_primary=True)],
        key=Key(("id",), ("bigint",), is_primary=True),
        workers=["w1"],
    )  # fmt: skip


def relation(**values: Any) -> Callable[[Survey], None]:
    def change(found: Survey) -> None:
        from dataclasses import replace  # noqa: PLC0415

        assert found.relation is not None
        found.relation = replace(found.relation, **values)

    return change


def heap(**values: Any) -> Heap:
    plain: dict[str, Any] = {"kind": "r", "file": 2, "pages": 1, "level": 1}
    return Heap(oid=2, schema="public", table="docs_a", **{**plain, **values})


def columns(**values: Column) -> Callable[[Survey], None]:
    return lambda found: found.columns.update(values)


def setting(**values: Any) -> Callable[[Survey], None]:
    def change(found: Survey) -> None:
        for name, value in values.items():
            setattr(found, name, value)

    return change


def trigger(name: str = "touch", *, before: bool = True, enabled: str = "O") -> dict[str, Any]:
    return {"name": name, "before": before, "on_insert": False, "on_update": True, "enabled": enabled}


def index(**values: Any) -> LiveIndex:
    plain: dict[str, Any] = {
        "heap_oid": 1, "schema": "public", "table": "docs",
        "oid": 2, "name": "docs_embedding", "method": "hnsw", "columns": 1, "has_expressions": False,
        "predicate": None, "on_column": True, "valid": True, "is_unique": False, "is_partitioned": False,
        "opclass": "vector_cosine_ops",
        "opclass_schema": "public", "options": None, "tablespace": None, "bytes": 1,
        "definition": "hnsw (embedding public.vector_cosine_ops)",
    }  # fmt: skip
    return LiveIndex(**{**plain, **values})


def dependent(kind: str, *, owned: bool = True) -> Dependent:
    return Dependent(kind, "thing", 3, direct=True, owned=owned)


def published(
    *, whole_row: bool = False, all_tables: bool = False, identity: str = "d", **target: Any
) -> Callable[[Survey], None]:
    def change(found: Survey) -> None:
        found.publications = [Publication("p", whole_row, all_tables)]
        found.spec = spec(**target)
        relation(replica_identity=identity)(found)

    return change


R, W, I = Severity.REFUSE, Severity.WARN, Severity.INFO  # noqa: E741 - the three severities

CASES: list[tuple[str, Severity, Callable[[Survey], Any]]] = [
    ("table_missing", R, setting(relation=None)),
    ("standby", R, lambda found: found.server.update(in_recovery=True)),
    ("standbys", I, lambda found: found.server.update(standbys=["standby1"])),
    ("server_too_old", R, lambda found: found.server.update(version=130012)),
    ("extension_missing", R, setting(extension=None)),
    ("extension_too_old", R, setting(extension=("0.6.2", "public"))),
    ("extension_unsafe", W, setting(extension=("0.8.1", "public"))),
    ("extension_unsafe", W, setting(extension=("0.8.2", "public"))),
    ("table_kind", R, relation(kind="m")),
    ("table_kind", R, relation(kind="f")),
    ("inheritance", R, relation(inherits=True)),
    ("unlogged", W, relation(persistence="u")),
    ("temporary", R, relation(persistence="t")),
    ("privilege_select", R, relation(may_select=False)),
    ("privilege_owner", W, relation(is_owner=False)),
    ("row_security", R, relation(row_security=True, bypasses_rls=False, force_row_security=True)),
    ("column_missing", R, lambda found: found.columns.pop("embedding")),
    ("column_type", R, columns(embedding=column("embedding", "sparsevec"))),
    ("partition", R, relation(is_partition=True, inherits=True)),
    ("partition_kind", R, setting(heaps=[heap(kind="f")])),
    ("partition_levels", R, setting(heaps=[heap(level=2)])),
    ("partition_dependent", R, setting(partition_dependents=[("docs_a", "index", "mine")])),
    ("column_generated", R, columns(embedding=column("embedding", "vector", modifier=1024, generated=True))),
    ("dims_differ_from_spec", R, columns(embedding=column("embedding", "vector", modifier=512))),
    ("text_column_missing", R, lambda found: found.columns.pop("title")),
    ("text_column_type", R, columns(title=column("title", "jsonb"))),
    ("text_column_generated", R, columns(title=column("title", "text", generated=True))),
    ("where_function", R, setting(spec=spec(where="mine(title)"))),
    ("expression_fails", R, setting(expression_error="no such function")),
    ("key_missing", R, setting(key=None, keys=[])),
    ("key_type", R, setting(key=Key(("at",), ("timestamp with time zone",), is_primary=True))),
    ("trigger_after_ours", R, setting(triggers=[trigger("zzzz_z")], may_silence_triggers=True)),
    ("trigger_always", R, setting(triggers=[trigger(enabled="A")], may_silence_triggers=True)),
    ("trigger_replica", R, setting(triggers=[trigger(), trigger("r", enabled="R")], may_silence_triggers=True)),
    ("trigger_allowed", W, setting(triggers=[trigger()], spec=spec(fire_triggers=True))),
    ("trigger_silenced", I, setting(triggers=[trigger()], may_silence_triggers=True)),
    ("trigger_fires", R, setting(triggers=[trigger()])),
    ("view", I, setting(dependents=[dependent("view")])),
    ("view_not_owned", R, setting(dependents=[dependent("view", owned=False)])),
    *(
        ("dependent_" + kind.replace(" ", "_"), R, setting(dependents=[dependent(kind)]))
        for kind in (
            "materialized view",
            "rule",
            "view by position",
            "function by position",
            "check constraint on NULL",
            "check constraint of other columns",
            "inherited check constraint",
            "generated column",
            "row policy of another table",
            "column grant of another role",
        )
    ),
    *(
        ("dependent_" + kind.replace(" ", "_"), I, setting(dependents=[dependent(kind)]))
        for kind in (
            "check constraint",
            "default",
            "trigger",
            "row policy",
            "function",
            "view rule",
            "extended statistics",
            "column grant",
            "comment",
            "statistics target",
            "storage",
            "compression",
            "column options",
        )
    ),
    ("dependent_not_null_constraint", W, setting(dependents=[dependent("not null constraint")])),
    ("dependent_function_not_owned", R, setting(dependents=[dependent("function", owned=False)])),
    ("index_invalid", R, setting(indexes=[index(valid=False)])),
    ("index_unique", R, setting(indexes=[index(is_unique=True)])),
    ("function_by_name", I, setting(named_in=["nearest(text)"])),
    ("function_whole_rows", W, setting(whole_rows=[("function", "keep(docs)", "takes or returns its rows")])),
    ("rows_stored", W, setting(whole_rows=[("column", "hist.r", "stores rows")])),
    ("publication", R, published()),
    ("publication_allowed", W, published(subscribers="not-searched")),
    ("publication_whole_row", R, published(whole_row=True, subscribers="not-searched")),
    ("publication_all_tables", R, published(whole_row=True, all_tables=True, subscribers="not-searched")),
    ("publication_identity_full", R, published(whole_row=True, identity="f", subscribers="not-searched")),
    (
        "dependent_publication_column_list",
        I,
        setting(dependents=[dependent("publication column list")], spec=spec(subscribers="not-searched")),
    ),
    (
        "dependent_publication_column_list_not_owned",
        R,
        setting(dependents=[dependent("publication column list", owned=False)], spec=spec(subscribers="not-searched")),
    ),
    ("migration_open", R, setting(open_migrations=[("other", "paused", "embedding")])),
    ("leftover", R, setting(leftovers=[("column", "embedding__migrator")])),
    ("readers_of_earlier_migration", W, setting(earlier="old")),
    ("state_unread", I, setting(workers=None)),
    ("no_workers", W, setting(workers=[])),
    ("worker_without_key", W, setting(keyless=[("w1", "THE_ROUTER_API_KEY")])),
]


def test_what_a_migrations_own_spec_finds_of_itself_is_no_leftover() -> None:
    """To drop it would destroy vectors that were paid."""
    found = survey()
    found.leftovers, found.is_open = [("column", "embedding__migrator")], True
    assert [each for each in preflight.check(found) if each.code == "leftover"] == []


def test_a_good_table_has_no_findings() -> None:
    assert preflight.check(survey()) == []


@pytest.mark.parametrize(
    ("code", "severity", "change"), CASES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_finding(code: str, severity: Severity, change: Callable[[Survey], Any]) -> None:
    found = survey()
    change(found)
    findings = preflight.check(found)
    assert [(each.code, each.severity) for each in findings if each.code == code] == [(code, severity)]
    assert all(each.message and each.mend for each in findings)


@pytest.mark.parametrize(
    ("version", "named"),
    [("0.8.1", ["overflow a buffer", "corrupt"]), ("0.8.2", ["corrupt"]), ("0.8.3", []), ("0.9.0", [])],
)
def test_a_fault_of_pgvector_is_named_where_it_is_there(version: str, named: list[str]) -> None:
    found = survey()
    found.extension = (version, "public")
    told = " ".join(each.message for each in preflight.check(found) if each.code == "extension_unsafe")
    assert [what for what in ("overflow a buffer", "corrupt") if what in told] == named


def test_what_an_operator_is_told_to_run_names_roles_and_tables_as_sql_takes_them() -> None:
    found = survey()
    found.server["role"] = "my role"
    table = specs.parse(
        {**found.spec.dump(), "target": {**found.spec.dump()["target"], "table": "public.Docs"}}, "test"
    )
    found.spec = table
    relation(may_select=False, row_security=True, bypasses_rls=False, force_row_security=True, persistence="u")(found)
    found.triggers = [trigger()]
    mends = {each.code: each.mend for each in preflight.check(found)}
    assert mends["privilege_select"] == 'GRANT SELECT ON public."Docs" TO "my role"'
    assert mends["row_security"].startswith('ALTER ROLE "my role" BYPASSRLS')
    assert mends["unlogged"] == 'ALTER TABLE public."Docs" SET LOGGED'
    assert mends["trigger_fires"].startswith('GRANT SET ON PARAMETER session_replication_role TO "my role"')


def retyped(*changes: Callable[[Survey], Any], **to: Any) -> set[tuple[str, Severity]]:
    """What is found where [to] says so much more."""
    found = survey()
    data = found.spec.dump()
    data["to"].update(to)
    found.spec = specs.parse(data, "test")
    for change in changes:
        change(found)
    return {(each.code, each.severity) for each in preflight.check(found)}


@pytest.mark.parametrize(
    ("to", "indexed", "expected"),
    [
        ({"dimensions": 512}, True, {("dims_change", W)}),
        ({"column_type": "halfvec"}, True, {("type_change", W)}),
        ({"dimensions": 2048}, False, {("dims_change", W)}),
        ({"dimensions": 2048}, True, {("dims_change", W), ("dims_over_index_limit", R)}),
        ({"dimensions": 2048, "column_type": "halfvec"}, True, {("dims_change", W), ("type_change", W)}),
    ],
)
def test_finding_about_dimensions_and_types(
    to: dict[str, Any],
    indexed: bool,  # noqa: FBT001 - a column of the table above
    expected: set[tuple[str, Severity]],
) -> None:
    assert retyped(setting(indexes=[index()] if indexed else []), **to) == expected


@pytest.mark.parametrize(
    "kind", ["view", "view rule", "function", "trigger", "row policy", "check constraint", "default"]
)
def test_what_is_made_for_the_old_type_is_refused(kind: str) -> None:
    change = setting(dependents=[dependent(kind)])
    assert ("dependent_typed", R) in retyped(change, dimensions=512)
    assert ("dependent_typed", R) in retyped(change, column_type="halfvec")
    unsized = columns(embedding=column("embedding", "vector"))
    assert ("dependent_typed", R) not in retyped(change, unsized, dimensions=512), "there the type stays what it is"


@pytest.mark.parametrize(
    ("made", "refused"),
    [
        (index(), False),
        (index(predicate="(embedding IS NOT NULL)"), False),
        (index(predicate="((embedding IS NOT NULL) AND (n > 0))"), False),
        (index(predicate="(public.vector_norm(embedding) > 1)"), True),
        (index(has_expressions=True, expression="(embedding)::public.halfvec(1024)"), True),
    ],
)
def test_indexes_that_are_made_for_the_old_type_are_refused(made: LiveIndex, refused: bool) -> None:  # noqa: FBT001
    unsized = columns(embedding=column("embedding", "vector"))
    for change in (setting(), unsized):
        assert (("index_typed", R) in retyped(setting(indexes=[made]), change, dimensions=512)) == refused


def test_subscribers_of_a_column_that_gets_another_type_are_refused() -> None:
    searched_by_nobody = published(subscribers="not-searched", subscribers_have_shadow=True)
    found = survey()
    searched_by_nobody(found)
    data = found.spec.dump()
    data["to"]["dimensions"] = 512
    found.spec = specs.parse(data, "test")
    assert ("publication_typed", R) in {(each.code, each.severity) for each in preflight.check(found)}


def test_subscribers_that_are_not_searched_and_have_the_column_are_no_obstacle() -> None:
    found = survey()
    published(whole_row=True, subscribers="not-searched", subscribers_have_shadow=True)(found)
    assert [each.code for each in preflight.check(found)] == ["publication_allowed"]


def test_h21_and_h25_are_refused_before_anything_is_paid() -> None:
    found = survey()
    found.columns["title"] = column("title", "text", generated=True)
    assert [(each.code, each.severity) for each in preflight.check(found)] == [("text_column_generated", R)]
    found = survey()
    found.spec = spec(where="lower(title) = 'x' AND now_is_later(title)")
    found.immutable_functions = frozenset({"lower"})
    assert [each.object for each in preflight.check(found)] == ["now_is_later()"]
