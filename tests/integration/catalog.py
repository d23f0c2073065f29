"""What the catalog and the rows say of a table, to compare before and after."""

from __future__ import annotations

import re
import subprocess

import psycopg

from migrator.demo.servers import Postgres


def dump(server: Postgres, url: str, *options: str) -> str:
    """pg_dump of everything but schema migrator, without the lines that differ from run to run."""
    done = subprocess.run(
        [server.tool("pg_dump"), "--exclude-schema=migrator", "--no-owner", *options, url],
        capture_output=True,
        text=True,
        check=True,
    )
    return "\n".join(line for line in done.stdout.splitlines() if not line.startswith(("\\restrict", "\\unrestrict")))


def lines(server: Postgres, url: str, *, ours: bool = False) -> list[str]:
    """What the schema says, owners and rights too, whatever the order of a table's columns; without what is ours."""
    done = subprocess.run(
        [server.tool("pg_dump"), "--exclude-schema=migrator", "--schema-only", url],
        capture_output=True,
        text=True,
        check=True,
    )
    text = re.sub(r"(ALTER TABLE [^\n;]+)\n +", r"\1 ", done.stdout)
    found = (line.rstrip(",") for line in text.splitlines())
    told = (line for line in found if line and not line.startswith(("--", "\\restrict", "\\unrestrict")))
    return sorted(line for line in told if ours or "__migrator" not in line)


def hanging(url: str, column: str) -> list[str]:
    """What PostgreSQL binds to a column by its number, but for what is ours: also where a dump can't tell."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(
            """SELECT pg_describe_object(d.classid, d.objid, d.objsubid)
                 FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = 'docs'::regclass AND a.attname = %s
                  AND d.deptype <> 'i' ORDER BY 1""",
            [column],
        ).fetchall()
    return [text.replace(column, "it") for (text,) in found if "__migrator" not in text.replace(column, "it")]


def picture(url: str) -> list[tuple[object, ...]]:
    """Names, numbers, rules and state of everything that a swap touches: two pictures are equal or they are not."""
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute("""
            SELECT 'column', attname::text, attnum::text FROM pg_attribute
             WHERE attrelid = 'docs'::regclass AND attnum > 0 AND NOT attisdropped
            UNION ALL SELECT 'trigger', tgname::text, pg_get_triggerdef(oid) || tgenabled::text FROM pg_trigger
             WHERE tgrelid = 'docs'::regclass
            UNION ALL SELECT 'function', proname::text, md5(prosrc) FROM pg_proc
             WHERE pronamespace = 'migrator'::regnamespace
            UNION ALL SELECT 'index', c.relname::text, i.indkey::text
              FROM pg_index i JOIN pg_class c ON c.oid = indexrelid WHERE indrelid = 'docs'::regclass
            UNION ALL SELECT 'view', c.relname::text, pg_get_viewdef(c.oid) || coalesce(c.reloptions::text, '')
                             || coalesce(c.relacl::text, '')
              FROM pg_class c WHERE c.relkind = 'v' AND c.relnamespace = 'public'::regnamespace
            UNION ALL SELECT 'view column', d.refobjsubid::text, d.objid::text FROM pg_depend d
             WHERE d.refobjid = 'docs'::regclass AND d.classid = 'pg_rewrite'::regclass AND d.refobjsubid > 0
            UNION ALL SELECT 'status', status, live_side || epoch::text FROM migrator.migrations
            UNION ALL SELECT 'live', generation, since::text FROM migrator.live
            UNION ALL SELECT 'transitions', count(*)::text, '' FROM migrator.transitions
            ORDER BY 1, 2, 3""").fetchall()


#: Every catalog that a swap may write.
_CATALOGS = (
    "attribute", "attrdef", "class", "constraint", "depend", "description", "index", "policy", "proc", "rewrite",
    "shdepend", "statistic_ext", "trigger", "type",
)  # fmt: skip
_STATE = ("migrations", "live", "transitions", "dirty", "written", "strays")


def versions(connection: psycopg.Connection) -> dict[str, str]:
    """Digests of the row versions in every catalog, the table and our state: who only rolls back leaves all of them."""
    tables = [*(f"pg_{name}" for name in _CATALOGS), "docs", *(f"migrator.{name}" for name in _STATE)]
    parts = [
        f"SELECT '{name}', count(*) || '-' || coalesce(bit_xor(hashtextextended(ctid::text || xmin::text, 0)), 0)"
        f" FROM {name}"
        for name in tables
    ]
    return dict(connection.execute(" UNION ALL ".join(parts).encode()).fetchall())
