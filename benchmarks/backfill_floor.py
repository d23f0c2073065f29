"""What PostgreSQL alone takes for the same updates, and so how near to COPY a client could come that cost nothing.

Two sessions on the same two cores write the vectors from a table beside it, in our lanes and landings, by a block that
runs in the server: nothing is sent, no text is compared, nothing is leased, counted or paid. What is left is what an
update of a row costs: the vector out of line, the row's new version, and for the rows that leave their page an insert
into the old index. Without that index it is measured too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import psycopg

from benchmarks.backfill_table import Vectors, connect
from migrator.backfill.embedding import most_rows
from migrator.target import pages, vectors

#: One for each core, as our own processes.
_SESSIONS = 2
#: Seconds that a session may take before it is given up.
_PATIENCE_SECONDS = 300.0

#: Vectors of 4 kB in line, so that reading them is as cheap as it can be; and which rows are written together by whom.
_BESIDE = """
CREATE TABLE beside (id bigint PRIMARY KEY, embedding vector(1024) STORAGE PLAIN);
CREATE TABLE landings (session int, number int, ids bigint[]);
"""
_WRITE = """
DO $$ DECLARE landing record; BEGIN
  FOR landing IN SELECT ids FROM landings WHERE session = {session} ORDER BY number LOOP
    UPDATE docs AS t SET shadow = b.embedding FROM unnest(landing.ids) AS v (id) JOIN beside AS b USING (id)
     WHERE t.id = v.id;
    COMMIT;
  END LOOP;
END $$
"""


def floor(url: str, found: Vectors) -> tuple[int, float]:
    """Write every row from the table beside it; returns (rows, seconds)."""
    with connect(url) as connection:
        connection.execute(_BESIDE)
        wire = vectors.encode(found, "vector")
        with connection.cursor().copy("COPY beside FROM STDIN (FORMAT BINARY)") as copying:
            copying.set_types(["int8", "vector"])
            for number, each in enumerate(wire, start=1):
                copying.write_row((number, each))
        for number, ids in enumerate(_landings(connection)):
            connection.execute("INSERT INTO landings VALUES (%s, %s, %s)", [ids[0], number, ids[1]])
        connection.commit()
        connection.autocommit = True
        connection.execute("VACUUM ANALYZE beside, landings")
        connection.execute("CHECKPOINT")
    failed: list[psycopg.Error] = []
    crew = [threading.Thread(target=_session, args=(url, each, failed)) for each in range(_SESSIONS)]
    began = time.perf_counter()
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join(_PATIENCE_SECONDS)
    if failed or any(thread.is_alive() for thread in crew):
        raise RuntimeError("a session did not get there") from (failed[0] if failed else None)
    return len(found), time.perf_counter() - began


def floor_without_index(url: str, found: Vectors) -> tuple[int, float]:
    """Write them where no index has to be told; returns (rows, seconds)."""
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("DROP INDEX docs_embedding_idx")
    return floor(url, found)


def _landings(connection: psycopg.Connection) -> Sequence[tuple[int, list[int]]]:
    """Return (session, ids) of each landing: the windows of a plan in turn, each in lane order."""
    rows = connection.execute(
        "SELECT (ctid::text::point)[0]::int, (ctid::text::point)[1]::int, id FROM docs"
    ).fetchall()
    wide = pages.width(max(page for page, _, _ in rows) + 1, len(rows))
    rows.sort(key=lambda row: (row[0] // wide, row[1], row[0]))
    windows: dict[int, list[int]] = {}
    for page, _, key in rows:
        windows.setdefault(page // wide, []).append(key)
    landings = []
    for number, ids in windows.items():
        start = 0
        while start < len(ids):
            beyond = start + most_rows(wide, leaving=start < wide)
            landings.append((number % _SESSIONS, ids[start:beyond]))
            start = beyond
    return landings


def _session(url: str, number: int, failed: list[psycopg.Error]) -> None:
    try:
        with psycopg.connect(url, autocommit=True) as session:
            session.execute(_WRITE.format(session=number).encode())
    except psycopg.Error as error:
        failed.append(error)
