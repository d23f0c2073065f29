"""Findings about a new column of another type: other dimensions, or halfvec in the place of vector.

Floor 2. Pure. Promise: what PostgreSQL made for the old type and can't take the new one is refused by name; what an
application meets on the way is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from migrator.generation import Side
from migrator.planning.findings import Finding, refuse, warn
from migrator.planning.survey import Survey
from migrator.target import dependents, facts
from migrator.target.dependents import LiveIndex
from migrator.target.facts import Column
from migrator.target.renaming import renamed

#: pgvector README: HNSW and IVFFlat take up to 2,000 dimensions of `vector`, 4,000 of `halfvec`.
INDEX_DIMS = {"vector": 2000, "halfvec": 4000}
_SEARCHING = frozenset({"hnsw", "ivfflat"})
#: A name that no column has.
_NONE = "none__migrator"
_MEND = "drop it for the time of the migration and make it for the new type afterwards, or keep type and dimensions"


def check(survey: Survey, column: Column) -> Iterator[Finding]:
    """Return what is to be said of the new column's type."""
    spec = survey.spec
    name = f"{spec.target.table}.{column.name}"
    old, new = spec.generation(Side.FROM).dims, spec.generation(Side.TO).dims
    wanted = spec.to.column_type or column.type_name
    sized = facts.dims_of(column) is not None
    if new != old and sized:
        yield warn(
            "dims_change",
            name,
            f'after the swap PostgreSQL refuses vectors of {old} dimensions ("expected {new} dimensions"), before any'
            " trigger could divert them: writers of the old generation fail, loudly",
            "stop or deploy them at the cutover; statements that name no vector go on",
        )
    elif new != old:
        yield warn("dims_change", name, f"its vectors will have {new} dimensions and not {old}", "tell the application")
    if wanted != column.type_name:
        yield warn(
            "type_change",
            name,
            f"it will be {wanted} and not {column.type_name}: a statement that was prepared with SELECT * fails once",
            "pass both query vectors to query_vector as `vector`, which either column is searched with by its index",
        )
    if any(each.on_column and each.method in _SEARCHING for each in survey.indexes) and new > INDEX_DIMS[wanted]:
        yield refuse(
            "dims_over_index_limit",
            name,
            f"an index takes {INDEX_DIMS[wanted]} dimensions of {wanted}, and [to] asks for {new}",
            'say column_type = "halfvec" in [to]' if new <= INDEX_DIMS["halfvec"] else "ask for fewer dimensions",
        )
    if new != old or wanted != column.type_name:
        for index in survey.indexes:
            if not _is_plain(index, column.name):
                what = "its expression or predicate is made for the old vectors"
                yield refuse("index_typed", index.name, what, _MEND)
    if (new != old and sized) or wanted != column.type_name:
        yield from _typed(survey)


def _typed(survey: Survey) -> Iterator[Finding]:
    for each in survey.dependents:
        if each.kind in dependents.TYPED:
            yield refuse("dependent_typed", each.name, f"this {each.kind} is made for the column's type", _MEND)
    for publication in survey.publications:
        yield refuse("publication_typed", publication.name, "its subscribers' columns are of the old type", _MEND)


def _is_plain(index: LiveIndex, column: str) -> bool:
    """Say whether an index is one over the column itself, as any type of vector has it."""
    name = rf'(\b{re.escape(column)}\b|"{re.escape(column)}")'
    predicate = re.sub(rf"{name} IS (NOT )?NULL", "true", index.predicate or "")
    return not index.has_expressions and renamed(f"({predicate})", column, _NONE) == f"({predicate})"
