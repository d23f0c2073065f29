"""Findings about what hangs on the vector column: what the swap takes along, and what is refused by name.

Floor 2. Pure. Promise (P1): nothing that names the column is passed over in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from migrator.planning.findings import Finding, info, refuse, warn
from migrator.planning.survey import Survey
from migrator.statements import identifier
from migrator.target.publications import COLUMN_LIST, Publication
from migrator.target.relation import suffixed

LATER = "it is not moved by this version; drop it for the time of the migration and make it again afterwards"
#: What becomes of a dependent that is not refused.
_TAKEN = {
    "re-point": "the swap takes it along",
    "follows": "the swap takes it along",
    "build again": "the new column gets one like it, which takes its name in the swap",
    "set alike": "the new column gets it at the start",
}
_PUT_BACK = (
    "the cutover takes it off and cleanup puts it back, when every row has a vector; until the cutover a writer that"
    " declares the new generation can't bring rows or texts"
)
#: What an operator can do about those that are refused for a reason of their own.
_MENDS = {
    "check constraint on NULL": "it wants a vector in every row, and the new column starts empty: drop it until then",
    "check constraint of other columns": "make it a constraint of the vector alone, or drop it until then",
    "inherited check constraint": "it is the parent table's: name that one, or take this table out of it",
    "column grant of another role": "have the table's owner grant it",
    **dict.fromkeys(
        ("view by position", "view rule by position", "function by position", "row policy by position"),
        "it names the table's columns by their places, which change: let it use the columns' own names",
    ),
}


def check(survey: Survey) -> Iterator[Finding]:
    """Return what is to be said of everything that hangs on the column."""
    yield from _hanging(survey)
    for name in survey.named_in:
        yield info(
            "function_by_name",
            name,
            "its text names the column: it follows by name, and from the swap on it meets the new generation",
            "look whether it holds the column's vectors against others; those must be of the same generation",
        )
    yield from _whole_rows(survey)
    yield from _publications(survey)


def for_the_owner(survey: Survey) -> Callable[[str, str, str, str], Finding]:
    """Refuse what this role lacks, or only warn where it is not the role that will start it anyway."""
    return refuse if survey.relation is not None and survey.relation.is_owner else warn


def _hanging(survey: Survey) -> Iterator[Finding]:
    for each in survey.dependents:
        if each.kind == "index" or (each.kind == COLUMN_LIST and survey.spec.target.subscribers is None):
            continue
        code = "view" if each.kind == "view" else "dependent_" + each.kind.replace(" ", "_")
        if each.action == "refuse":
            yield refuse(code, each.name, f"this {each.kind} hangs on it", _MENDS.get(each.kind, LATER))
        elif each.action == "put back":
            yield warn(code, each.name, _PUT_BACK, "deploy writers of the new generation after the cutover")
        elif not each.owned:
            yield for_the_owner(survey)(
                f"{code}_not_owned",
                each.name,
                f"the swap must re-point this {each.kind}, and this role does not own it",
                "run as a member of the role that owns it",
            )
        else:
            yield info(code, each.name, f"{_TAKEN[each.action]} ({each.action})", "nothing to do")
    for index in survey.indexes:
        if not index.valid:
            yield refuse("index_invalid", index.name, "it is INVALID", "drop it, or REINDEX it")
        elif index.is_unique:
            yield refuse("index_unique", index.name, "it is unique, and a new vector may not be", LATER)


def _whole_rows(survey: Survey) -> Iterator[Finding]:
    """Name who takes rows as they stand: a new column comes with `start`, and two change places in the swap (H16)."""
    for kind, name, how in survey.whole_rows:
        if kind == "column":
            yield warn(
                "rows_stored",
                name,
                "it stores whole rows of the table, by their columns' places: of those that it holds at the swap, the"
                " vector column reads as NULL afterwards, and at cleanup their old vectors are gone",
                "keep what is needed of them in columns of their own",
            )
        else:
            yield warn(
                "function_whole_rows",
                name,
                f"it takes rows as they stand ({how}): it meets the new column at the start, and the two exchanged at"
                " the cutover (H16)",
                "name the columns in it; `start` tries an INSERT, an UPDATE and a DELETE with all triggers, and begins"
                " nothing where one fails",
            )


def _publications(survey: Survey) -> Iterator[Finding]:
    """Weigh who subscribes to the column: nothing tells a subscriber which generation its vectors are of (H5)."""
    target = survey.spec.target
    for each in survey.publications:
        if target.subscribers is None:
            yield refuse(
                "publication",
                each.name,
                "it publishes the vector column: its subscribers would mix generations without an error (H5)",
                "publish a column list without the vector; or, where nobody searches a subscriber's vectors or they"
                ' will be copied anew, say subscribers = "not-searched" in [target]',
            )
            continue
        if each.all_tables:
            yield refuse(
                "publication_all_tables",
                each.name,
                "it publishes every table, our own too: subscribers without them stop, and our deletes fail",
                "publish tables or schemas by their names, for the time of the migration",
            )
        yield warn(
            "publication_allowed",
            each.name,
            "after the swap its subscribers get new vectors among old ones, edit by edit, in one column (H5); the spec"
            " says that nobody searches them",
            "search no subscriber before its vectors are copied anew",
        )
        if each.whole_row:
            yield from _whole_row(survey, each)


def _whole_row(survey: Survey, publication: Publication) -> Iterator[Finding]:
    target, relation = survey.spec.target, survey.relation
    name, shadow = publication.name, suffixed(target.column)
    if not target.subscribers_have_shadow:
        kind = survey.column.full_type if survey.column is not None else "vector"
        yield refuse(
            "publication_whole_row",
            name,
            f"it publishes whole rows: without a column {shadow} its subscribers stop at the first edit after `start`",
            f"run ALTER TABLE {survey.table_sql} ADD COLUMN {identifier(shadow)} {kind} on each of them, and say"
            " subscribers_have_shadow = true in [target]; or publish a column list",
        )
    if relation is not None and relation.replica_identity == "f":
        yield refuse(
            "publication_identity_full",
            name,
            "REPLICA IDENTITY FULL lets a subscriber look for rows by all their columns, and the vectors' differ there"
            " after the swap: it would pass over edits without an error",
            f"ALTER TABLE {survey.table_sql} REPLICA IDENTITY DEFAULT, or USING INDEX, for the time of the migration",
        )
