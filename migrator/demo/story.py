"""The main job, end to end, on real servers and real models, while an application goes on.

Floor 4. Promise: what it shows is what happened: commands are run as an operator types them, and its exit code is 0
only if no answer was of a wrong generation, no statement of the application failed, and nothing was billed but what was
needed and what was in flight when a worker was killed. Ctrl-C at any moment leaves nothing behind.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import tempfile
import time
from pathlib import Path
from types import FrameType

import numpy as np
import psycopg
import typer
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from migrator.demo import corpus as corpora
from migrator.demo import shop
from migrator.demo.application import Application
from migrator.demo.corpus import Corpus
from migrator.demo.endpoint import Endpoint
from migrator.demo.processes import NotReady
from migrator.demo.servers import ExtraMissing
from migrator.demo.simulator.backends import NEW_MODEL, OLD_MODEL
from migrator.demo.stage import KEY_VARIABLE, Stage
from migrator.demo.summary import Summary, make_bill
from migrator.demo.terminal import CommandFailed, Terminal, chapter, tell

#: The share of rows after which the worker is killed, and seconds of life between two swaps.
_KILL_AT, _LIFE_SECONDS = 0.2, 2.0
_INTERRUPTED = 130


def run(*, rows: int, keep: bool, summary: Path | None, report: Path | None = None) -> int:
    """Tell the story; returns its exit code."""
    for package in ("jinja2", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise ExtraMissing(package, "report")
    began = time.monotonic()
    corpus = corpora.load(rows)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    stage = Stage()
    try:
        # Small products in many threads: BLAS threads would spin on the cores that the models need.
        with threadpool_limits(1, user_api="blas"):
            story = _Story(stage, corpus, report)
            made = story.tell()
        made.seconds = time.monotonic() - began
        made.judge()
        _close(made, summary, story.page)
        if keep:
            _keep(stage)
    except (CommandFailed, NotReady) as failed:
        typer.secho(f"The demo stopped: {failed}. Logs of its processes:", fg=typer.colors.RED, err=True)
        for log in sorted(stage.home.rglob("*.log")):
            typer.echo(f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}", err=True)
        return 1
    except KeyboardInterrupt:
        typer.echo("\nInterrupted; everything the demo started is being stopped.", err=True)
        return _INTERRUPTED
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave half of it running
        stage.stop()
    return 0 if made.ok else 1


def _interrupt(number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt(number)


def _page(wanted: Path | None) -> Path:
    """Return where the report goes, absolute, since commands run in a folder that is gone at the end.

    Without a wish: out of the way in the working directory, or among the temporary files where that may not be written.
    """
    if wanted is not None:
        return wanted.absolute()
    folder = Path.cwd() / ".demo"
    try:
        folder.mkdir(exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir())
    place = folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir())
    return place / "pgvector-migrator-demo.html"


def _close(made: Summary, summary: Path | None, page: Path | None) -> None:
    chapter("Summary")
    for name, value in made.lines():
        typer.echo(f"  {name:32} {value}")
    for problem in made.problems:
        typer.secho(f"  NOT AS IT SHOULD BE: {problem}", fg=typer.colors.RED)
    for wrong in [*made.seen.wrong, *made.seen.failed][:5]:
        typer.echo(f"    {wrong}")
    if page is not None:
        typer.echo(f"  {'report, to be looked at':32} {page}")
    if summary is not None:
        summary.write_text(json.dumps(made.as_json(), indent=2) + "\n", encoding="utf-8")


def _keep(stage: Stage) -> None:
    chapter("Left running (--keep); Ctrl-C stops everything")
    for name in ("MIGRATOR_DATABASE_URL", "MIGRATOR_BROKER_URL", KEY_VARIABLE):
        typer.echo(f"  export {name}={stage.env[name]}")
    typer.echo(f"  Flower: http://127.0.0.1:{stage.flower_port}  login operator / {stage.password}")
    while True:
        time.sleep(3600)


class _Story:
    """The parts of the story, in their order."""

    def __init__(self, stage: Stage, corpus: Corpus, report: Path | None) -> None:
        self.stage = stage
        self.report = report
        self.page: Path | None = None
        self.corpus = corpus
        self.terminal = Terminal(stage.home, stage.env)
        self.endpoint = Endpoint(stage.simulator.base_url)
        self.killed = False

    def tell(self) -> Summary:
        """Tell it all."""
        self._set_up()
        queries = self._embed_queries()
        self._plan_and_start()
        application = Application(self.stage.url, self.endpoint, self.corpus.articles, queries)
        before = shop.quality(self.stage.url, self.corpus.queries, queries)
        application.start()
        try:
            self._backfill()
            after = self._there_and_back(application, queries)
            self._clean_up(application)
        finally:
            application.stop()
        return self._sum_up(application, before, after)

    def _set_up(self) -> None:
        chapter("An application searches Wikipedia leads with vectors of an old model")
        self.stage.start_servers()
        tell(f"PostgreSQL 18 with pgvector on port {self.stage.postgres.port}, Valkey on {self.stage.valkey.port}")
        tell(f"provider: {self.stage.simulator.base_url}, models {OLD_MODEL} and {NEW_MODEL}, both of 512 dimensions")
        shop.fill(self.stage.url, self.endpoint, self.corpus.articles)
        tell(f"{len(self.corpus.articles):,} rows embedded by {OLD_MODEL}, an HNSW index, and a view over the column")
        spec = shop.SPEC.format(old=OLD_MODEL, new=NEW_MODEL, base_url=self.stage.simulator.base_url, key=KEY_VARIABLE)
        (self.stage.home / "docs.toml").write_text(spec, encoding="utf-8")

    def _embed_queries(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        texts = [query.text for query in self.corpus.queries]
        return self.endpoint.embed(OLD_MODEL, texts), self.endpoint.embed(NEW_MODEL, texts)

    def _plan_and_start(self) -> None:
        chapter("Workers, and a plan")
        self.terminal.run("init")
        for name in ("w1", "w2"):
            self.stage.start_worker(name)
        self.stage.start_beat_and_flower()
        tell("$ celery -A workers.app worker (two of them), beat, flower")
        tell(f"Flower: http://127.0.0.1:{self.stage.flower_port}  login operator / {self.stage.password}")
        self._until_workers(2)
        self.terminal.run("plan", "docs.toml")
        self.terminal.run("doctor", "docs.toml")
        self.terminal.run("start", "docs.toml", "--yes")

    def _until_workers(self, wanted: int) -> None:
        deadline = time.monotonic() + 60
        with psycopg.connect(self.stage.url, autocommit=True) as connection:
            while time.monotonic() < deadline:
                found = connection.execute("SELECT count(*) FROM migrator.workers").fetchone()
                if found is not None and found[0] >= wanted:
                    return
                time.sleep(0.1)
        raise CommandFailed(f"{wanted} workers did not sign in time")

    def _backfill(self) -> None:
        chapter("The workers go on by themselves; one of them is killed")
        tell("writers and readers of the application run from here to the end; one writer declares nothing, ever")

        def watch(line: str) -> None:
            found = re.search(r"^docs (\d+(?:\.\d+)?) %", line)
            if not self.killed and found and float(found.group(1)) >= 100 * _KILL_AT:
                self._kill()

        self.terminal.follow("status", "docs", "--watch", on_line=watch)
        if not self.killed:
            raise CommandFailed("the backfill was over before the worker could be killed")
        self.terminal.run("status", "docs")

    def _kill(self) -> None:
        """SIGKILL a worker while it waits for answers; its supervisor would start another."""
        self.killed = True
        with psycopg.connect(self.stage.url, autocommit=True) as connection:
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline and self.stage.simulator.ledger()["in_flight"] == 0:
                time.sleep(0.005)
            name = self._busy_worker(connection)
        pid = self.stage.kill_worker(name)
        tell(f"SIGKILL: worker {name} (pid {pid}) is gone in the middle of its batch; a new one is started")
        self.stage.start_worker("w3")

    @staticmethod
    def _busy_worker(connection: psycopg.Connection) -> str:
        """Return the worker that has a batch in hand, by the pid that its lease names."""
        rows = connection.execute("SELECT holder FROM migrator.batches WHERE status = 'leased'").fetchall()
        holders = {int(holder.rsplit(":", 1)[1]) for (holder,) in rows}
        for name, pid in connection.execute("SELECT name, pid FROM migrator.workers").fetchall():
            children = Path(f"/proc/{pid}/task/{pid}/children")
            if children.exists() and holders & {int(child) for child in children.read_text().split()}:
                return str(name).split("@", maxsplit=1)[0]
        return "w1"

    def _there_and_back(
        self, application: Application, queries: tuple[NDArray[np.float32], NDArray[np.float32]]
    ) -> dict[str, float]:
        chapter("Cutover: first a rehearsal, then the real thing")
        application.deploy_new_writer()
        tell(f"a new version of the application is deployed beside the old one: it declares {NEW_MODEL}@512")
        self.terminal.run("cutover", "docs", "--rehearse")
        self.terminal.run("cutover", "docs", "--readers-ready", "--yes")
        time.sleep(_LIFE_SECONDS)
        after = shop.quality(self.stage.url, self.corpus.queries, queries)
        self.terminal.run("status", "docs")
        chapter("The way back, and there again")
        self.terminal.run("rollback", "docs", "--yes")
        time.sleep(_LIFE_SECONDS)
        self.terminal.run("resume", "docs")
        self.terminal.follow("status", "docs", "--watch", on_line=lambda _: None)
        self.terminal.run("cutover", "docs", "--readers-ready", "--yes")
        time.sleep(_LIFE_SECONDS)
        return after

    def _clean_up(self, application: Application) -> None:
        chapter("Cleanup")
        self.terminal.run("cleanup", "docs", "--close-window", "--yes", code=2)
        application.stop_old_writer()
        tell("the old version of the application is stopped at last")
        self.terminal.run("cleanup", "docs", "--close-window", "--strays-gone", "--yes")
        self.terminal.run("status")
        chapter("One page to show")
        self.page = _page(self.report)
        self.terminal.run("report", "docs", "-o", str(self.page))

    def _sum_up(self, application: Application, before: dict[str, float], after: dict[str, float]) -> Summary:
        entries = self.stage.simulator.ledger(entries=True)["entries"]
        first = [shop.text_of(each.title, each.body) for each in self.corpus.articles]
        bill = make_bill(self.stage.url, entries, first, application.seen.written)
        return Summary(
            faults=shop.faults(self.stage.url, self.endpoint, sample=200),
            bill=bill,
            seen=application.seen,
            quality_before=before,
            quality_after=after,
            seconds=0.0,
        )
