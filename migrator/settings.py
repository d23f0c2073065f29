"""Settings of this process, from the environment, `.env` or a file that they name; secrets come from nowhere else.

Floor 0. Promise: no secret is ever read from the spec file or a flag, and none is shown: a URL is printed
without its password (P11). Where NAME_FILE is set, the value of NAME is what that file holds, as orchestrators hand
out secrets: it stands in no environment, which every child process inherits.
"""

from __future__ import annotations

import os
import re
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from dotenv import dotenv_values
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from migrator.errors import OperatorError

#: With it, a variable's name is that of the one which names a file: as official images of PostgreSQL have it.
FILE_SUFFIX = "_FILE"
#: What may be read from a file: the settings that hold passwords.
_IN_FILES = ("database_url", "broker_url")
#: Bytes of the longest file that is read: a wrong path must not be read to its end.
_LONGEST_BYTES = 65_536
#: Provider requests in flight per worker process, where nobody says otherwise.
CONCURRENCY = 4


def connections(concurrency: int) -> int:
    """Return how many connections to the database a worker process keeps: one a request, the purse's and the pace's."""
    return concurrency + 2


@dataclass(eq=False)
class SettingMissing(OperatorError):
    """A setting that this command needs is not there."""

    setting: str
    purpose: str

    runbook = "first-migration"
    happened = "{setting} is not set ({purpose})."
    state = "Nothing was changed."
    next = "Set it in the environment or in .env, then run `migrator doctor`."


@dataclass(eq=False)
class SettingInvalid(OperatorError):
    """A setting is there and can't be used."""

    setting: str
    problem: str

    runbook = "first-migration"
    happened = "{setting} can't be used: {problem}."
    state = "Nothing was changed."
    next = "Mend it in the environment or in .env, then run `migrator doctor`."


class Settings(BaseSettings):
    """What the environment says. Lease and concurrency have working defaults; the URLs have none."""

    model_config = SettingsConfigDict(env_prefix="MIGRATOR_", env_file=".env", extra="ignore")

    #: The table's own database, where schema `migrator` lies too: postgresql://user:password@host:5432/database.
    database_url: str | None = None
    #: Where workers hear of work: redis://... or amqp://...; what it holds may be lost.
    broker_url: str = "redis://127.0.0.1:6379/0"
    #: Seconds until a silent worker loses its batch; renewed every third of it (celery practice: 30 s
    #: outlasts a slow request, and a killed worker's batch is taken back within a minute).
    lease_seconds: float = Field(default=30.0, ge=1, le=600)
    #: Provider requests in flight per worker process. httpx slows down above 32 connections a client.
    concurrency: int = Field(default=CONCURRENCY, ge=1, le=32)
    #: Niceness of a worker's processes and of their session, 0 to 19: where they share a machine with the database or
    #: the application, those go first. Between containers a weight decides (compose: cpu_shares; systemd: CPUWeight).
    nice: int = Field(default=10, ge=0, le=19)
    #: Tells apart two deployments on one machine, in the name of beat's file.
    instance: str = Field(default="default", pattern=r"^[A-Za-z0-9_-]{1,40}$")

    #: How workers and beat write their logs: "json" for collectors.
    log_format: Literal["text", "json"] = "text"

    #: Whether hooks may run commands here. Who may write schema `migrator` may write a spec, and must not thereby get
    #: to run programs on workers.
    allow_command_hooks: bool = False

    def required_database_url(self) -> str:
        """Return the database's URL.

        Raises: SettingMissing, SettingInvalid.
        """
        if not self.database_url:
            raise SettingMissing("MIGRATOR_DATABASE_URL", "postgresql://user:password@host:5432/database")
        scheme = urlsplit(self.database_url).scheme
        if scheme not in {"postgresql", "postgres"}:
            raise SettingInvalid("MIGRATOR_DATABASE_URL", "it must begin with postgresql://")
        return self.database_url


def beat_sign(found: Settings) -> Path:
    """Return the file that beat touches, for health checks; two deployments on one machine have two."""
    return Path(tempfile.gettempdir()) / f"migrator-beat-{found.instance}.alive"


def load() -> Settings:
    """Read the settings of this process.

    Raises: SettingInvalid, naming the first variable that can't be used.
    """
    try:
        return Settings(**_from_files())
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = "MIGRATOR_" + "_".join(str(part) for part in first["loc"]).upper()
        raise SettingInvalid(name, first["msg"]) from None


def broker_tls(url: str) -> dict[str, Any] | None:
    """Return what kombu has to be told so that a broker's certificate and name are looked at; None without TLS.

    By itself it takes any certificate of a Redis (CERT_NONE), and any name of a RabbitMQ. Which authorities are trusted
    is OpenSSL's to say (SSL_CERT_FILE), or the address's (`?ssl_ca_certs=/path`, Redis alone).
    """
    wanted: dict[str, dict[str, Any]] = {
        "rediss": {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True},
        "amqps": {"server_hostname": None},  # None: the address's own
    }
    return wanted.get(urlsplit(url).scheme)


def secret(variable: str) -> str | None:
    """Return a secret (the provider's key, what signs hooks, Flower's login); None where there is none.

    Raises: SettingInvalid, where the file that is to hold it can't be read.
    """
    plain, file = _given(variable), _given(variable + FILE_SUFFIX)
    if file is None:
        return plain
    if plain is not None:
        raise SettingInvalid(variable, f"{variable}{FILE_SUFFIX} is set too, and nobody can tell which is meant")
    return _read(variable + FILE_SUFFIX, Path(file))


def has_secret(variable: str) -> bool:
    """Say whether there is such a secret here, also where its file can't be read: then there is none."""
    try:
        return secret(variable) is not None
    except SettingInvalid:
        return False


def _from_files() -> dict[str, Any]:
    """Return the settings that files hold."""
    variables = {name: f"MIGRATOR_{name}".upper() for name in _IN_FILES}
    named = {name: each for name, each in variables.items() if _given(each + FILE_SUFFIX) is not None}
    return {name: secret(variable) for name, variable in named.items()}


def _given(variable: str) -> str | None:
    return os.environ.get(variable) or dotenv_values(".env").get(variable) or None


def _read(variable: str, file: Path) -> str:
    try:
        with file.open("rb") as opened:
            value = opened.read(_LONGEST_BYTES).decode().strip()
    except OSError as error:
        raise SettingInvalid(variable, f"{file} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingInvalid(variable, f"{file} is not text") from None
    if not value:
        raise SettingInvalid(variable, f"{file} is empty")
    return value


#: Parameters of a URL that hold a password: `password` of redis-py, `sslpassword` of libpq, `ssl_password`; and those
#: whose names are written so that nobody can tell.
_PASSWORD = re.compile(r"((?:^|&)[^=&]*(?:pass|%)[^=&]*=)[^&]*", re.IGNORECASE)


def without_password(url: str) -> str:
    """Return a URL that may be printed: passwords are replaced, also as parameters; everything else stays."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
        # Behind a password with #, / or ? in it the host is no host, and its rest stands elsewhere.
        if "@" in f"{parts.path}{parts.query}{parts.fragment}":
            return "(unreadable URL)"
        query, fragment = (_PASSWORD.sub(r"\1***", each) for each in (parts.query, parts.fragment))
        if parts.password is None:
            # What is put together again may lose a slash or a question mark.
            same = (query, fragment) == (parts.query, parts.fragment)
            return url if same else urlunsplit(parts._replace(query=query, fragment=fragment))
        host = parts.hostname or ""
    except ValueError:
        return "(unreadable URL)"
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}{port}", query=query, fragment=fragment))
