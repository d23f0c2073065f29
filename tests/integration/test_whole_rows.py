"""H16: who takes whole rows of the table is named by the plan, and what is said of it is what happens."""

from __future__ import annotations

import psycopg

from migrator.lifecycle import MigrationStatus
from migrator.planning import plan as plans
from migrator.spending.worker import Worker
from tests.deployment import Deployment
from tests.integration import steps
from tests.integration.swaps import cut_over

_TAKERS = """
CREATE TABLE hist (LIKE docs);
CREATE FUNCTION all_of_it() RETURNS SETOF docs LANGUAGE sql AS 'SELECT * FROM docs';
CREATE FUNCTION joined() RETURNS bigint LANGUAGE sql AS
  'SELECT count(*) FROM (SELECT d.* FROM hist AS h JOIN public.docs d USING (id)) AS s';
CREATE FUNCTION put() RETURNS void LANGUAGE plpgsql AS $$ BEGIN INSERT INTO "docs" VALUES (99); END $$;
CREATE FUNCTION typed() RETURNS int LANGUAGE plpgsql AS $$ DECLARE r docs%ROWTYPE; BEGIN RETURN 1; END $$;
CREATE FUNCTION title_of(d docs) RETURNS text LANGUAGE sql AS 'SELECT d.title';
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM OLD.*; RETURN NEW; END $$;
CREATE TRIGGER keep AFTER DELETE ON docs FOR EACH ROW EXECUTE FUNCTION keep();
"""
#: None of these leans on the order of the table's columns.
_OTHERS = """
CREATE FUNCTION counted() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM docs';
CREATE FUNCTION named() RETURNS void LANGUAGE sql AS 'INSERT INTO docs (title) VALUES (1)';
CREATE FUNCTION of_another() RETURNS SETOF hist LANGUAGE sql AS 'SELECT * FROM hist; SELECT * FROM hist';
CREATE FUNCTION apart() RETURNS void LANGUAGE plpgsql AS
  $$ BEGIN PERFORM * FROM hist; DELETE FROM docs WHERE false; END $$;
CREATE FUNCTION bound() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM (SELECT * FROM docs) AS s; END;
"""


async def test_h16_functions_that_take_whole_rows_are_named_with_how(
    deployment: Deployment, worker: Worker, sql: psycopg.Connection
) -> None:
    deployment.make_table(5)
    sql.execute(_TAKERS.encode())
    sql.execute(_OTHERS.encode())
    made = await plans.make(worker.engine, deployment.spec)
    told = {each.object: each.message for each in made.findings if each.code == "function_whole_rows"}
    hows = {name.removeprefix("public."): message.split("(")[1].split(")")[0] for name, message in told.items()}
    assert hows == {
        "all_of_it()": "SELECT *, takes or returns its rows",
        "joined()": "SELECT *",
        "put()": "INSERT without a column list",
        "typed()": "%ROWTYPE",
        "title_of(public.docs)": "takes or returns its rows",
        "keep()": "OLD.* or NEW.*",
    }


async def test_h16_a_column_that_stores_rows_is_named_and_reads_null_after_the_swap(
    deployment: Deployment, worker: Worker, sql: psycopg.Connection
) -> None:
    deployment.make_table(12)
    sql.execute("CREATE TABLE hist (at int, r docs); INSERT INTO hist SELECT 1, d FROM docs AS d")
    made = await plans.make(worker.engine, deployment.spec)
    assert [each.object for each in made.findings if each.code == "rows_stored"] == ["public.hist.r"]
    stored = "SELECT count((h.r).embedding) FROM hist AS h"
    await steps.start(deployment, worker)
    await steps.to(worker, MigrationStatus.READY)
    assert deployment.value(stored) == 12
    await cut_over(worker)
    assert deployment.value(stored) == 0
