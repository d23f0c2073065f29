"""A database that is closed to everybody, and a deployment in it whose roles have what `migrator grants` prints."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from migrator.cli import app as cli
from tests.deployment import Deployment

#: Roles are the whole cluster's, so names are of these tests alone.
MIGRATE, PLAN, WATCH, APPLICATION = "rights_migrate", "rights_plan", "rights_watch", "rights_app"
OWNER, VIEW_OWNER = "rights_owner", "rights_view_owner"
ROLES = (MIGRATE, PLAN, WATCH, APPLICATION, OWNER, VIEW_OWNER)
NAMED = ("--role", f"migrate={MIGRATE}", "--role", f"plan={PLAN}", "--role", f"watch={WATCH}",
         "--role", f"application={APPLICATION}")  # fmt: skip
#: Nothing is granted to PUBLIC; pgvector, the table and a view of it lie in three schemas and belong to two owners.
_CLOSED = f"""
REVOKE ALL ON SCHEMA public FROM PUBLIC;
CREATE SCHEMA pgv; CREATE EXTENSION vector SCHEMA pgv; CREATE SCHEMA views;
CREATE ROLE {OWNER}; CREATE ROLE {VIEW_OWNER}; CREATE ROLE {APPLICATION} LOGIN;
GRANT USAGE ON SCHEMA public, pgv TO {APPLICATION};
"""
_OWNED = f"""
CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.n := OLD.n + 1; RETURN NEW; END';
CREATE TRIGGER note BEFORE UPDATE ON public.docs FOR EACH ROW EXECUTE FUNCTION public.note();
DROP VIEW public.docs_view;
ALTER TABLE public.docs OWNER TO {OWNER};
GRANT SELECT ON public.docs TO {VIEW_OWNER};
GRANT SELECT, INSERT, UPDATE, DELETE ON public.docs TO {APPLICATION};
CREATE VIEW views.titles AS SELECT id, title, embedding FROM public.docs;
ALTER VIEW views.titles OWNER TO {VIEW_OWNER};
"""
#: The life as an operator types it; the workers' part is `work`.
LIFE = (
    ("init",),
    ("plan", "docs.toml"),
    ("start", "docs.toml", "--yes"),
    ("work", "docs"),
    ("cutover", "docs", "--yes", "--readers-ready"),
    ("rollback", "docs", "--yes"),
    ("resume", "docs"),
    ("work", "docs"),
    ("cutover", "docs", "--yes", "--readers-ready"),
    ("cleanup", "docs", "--yes", "--close-window"),
)


class Rights:
    """A deployment whose commands run as this role or that one, in this process."""

    def __init__(
        self, deployment: Deployment, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        self.deployment = deployment
        self._patch, self._printed = monkeypatch, capfd
        monkeypatch.chdir(deployment.home)
        for name, value in deployment.env.items():
            monkeypatch.setenv(name, value)
        with psycopg.connect(deployment.url, autocommit=True) as connection:
            name = connection.info.dbname
            connection.execute(_CLOSED.encode())
            connection.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC".encode())
            connection.execute(f"GRANT CONNECT ON DATABASE {name} TO {APPLICATION}".encode())
            # As an administrator keeps it where the extension has a schema of its own.
            connection.execute(f"ALTER DATABASE {name} SET search_path = public, pgv".encode())
        deployment.make_table(40)
        self.sql(_OWNED)
        assert deployment.spec_file.name == "docs.toml"

    def sql(self, *statements: str) -> None:
        """Run statements as the administrator."""
        with self.deployment.connect() as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def url(self, role: str) -> str:
        return self.deployment.url.replace("postgres@", f"{role}@")

    def run(self, role: str, *words: str) -> tuple[int, str, str]:
        """Run a command as a role; returns its exit code and what it printed, on stdout and stderr."""
        self._patch.setenv("MIGRATOR_DATABASE_URL", self.url(role))
        self._printed.readouterr()
        code = cli.run(list(words))
        said = self._printed.readouterr()
        return code, said.out, said.err

    def must(self, role: str, *words: str) -> str:
        code, out, err = self.run(role, *words)
        assert code == 0, f"{role}: migrator {words}: exit {code}\n{out}\n{err}"
        return out

    def lines(self, kind: str) -> list[str]:
        """What `migrator grants` prints for one kind of role."""
        _, out, _ = self.run("postgres", "grants", "docs.toml", *NAMED, "--json")
        (block,) = [each for each in json.loads(out)["blocks"] if each["kind"] == kind]
        return [line["sql"] for line in block["lines"]]

    def give(self, lines: Iterable[str]) -> None:
        """Run lines as psql does, which goes on behind a line that is refused."""
        with self.deployment.connect() as connection:
            for line in lines:
                try:
                    connection.execute(line.encode())
                except psycopg.errors.UndefinedObject as error:
                    if "role" not in str(error):  # that is the line which makes it, left out
                        raise

    def piped(self, psql: Path, *options: str) -> None:
        """Pipe what is printed into psql, which must not be refused anything."""
        _, out, _ = self.run("postgres", "grants", "docs.toml", *options)
        command = [psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", self.deployment.url]
        done = subprocess.run(command, input=out, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{out}\n{done.stderr}"

    def refused_in_life(self, *, until: str | None = None) -> str | None:
        """Lead the life as the role that migrates, all of it or up to a verb; returns where it was refused, or None."""
        last = len(LIFE) if until is None else [words[0] for words in LIFE].index(until) + 1
        for words in LIFE[:last]:
            code, out, err = self.run(MIGRATE, *words)
            if code != 0:
                return f"{words}: exit {code}\n{out}\n{err}"
            if words[0] == "plan" and (lack := self.lacks(MIGRATE)):
                return lack
        return None

    def lacks(self, role: str, *, expected: tuple[str, ...] = ()) -> str | None:
        """Which rights a plan by this role misses; None where it misses none, but for those that are expected."""
        code, out, err = self.run(role, "plan", "docs.toml", "--json")
        if not out:
            return f"plan: exit {code}\n{err}"
        findings: list[dict[str, Any]] = json.loads(out)["findings"]
        codes = {"trigger_fires", "state_unread", "row_security"}
        told = [
            each
            for each in findings
            if each["code"].startswith("privilege_") or each["code"] in codes or each["severity"] == "refuse"
        ]
        return "\n".join(str(each) for each in told if each["code"] not in expected) or None

    def dropped(self) -> None:
        """Take the roles away again: they are the cluster's."""
        with self.deployment.connect() as connection:
            for role in ROLES:
                if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone():
                    connection.execute(f"DROP OWNED BY {role} CASCADE".encode())
            for role in ROLES:
                connection.execute(f"DROP ROLE IF EXISTS {role}".encode())
