"""Settings: from the environment, from `.env`, and from files as orchestrators hand out secrets."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from migrator import settings
from migrator.settings import SettingInvalid
from migrator.spec import ModelSpec
from migrator.spending.worker import Worker
from tests.deployment import V4

URL = "postgresql://me:db-canary@db.example/shop"
VARIABLES = ("MIGRATOR_DATABASE_URL", "MIGRATOR_BROKER_URL", "PROVIDER_KEY")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"{name}_FILE", raising=False)


@pytest.mark.parametrize("where", ["environment", ".env"])
def test_urls_are_read_from_the_files_that_are_named(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "database").write_text(f"{URL}\n")
    (tmp_path / "broker").write_text("redis://:broker-canary@queue:6379/0")
    named = {"MIGRATOR_DATABASE_URL_FILE": "database", "MIGRATOR_BROKER_URL_FILE": "broker"}
    for name, file in named.items():
        if where == "environment":
            monkeypatch.setenv(name, str(tmp_path / file))
        else:
            with (tmp_path / ".env").open("a") as opened:
                opened.write(f"{name}={tmp_path / file}\n")
    found = settings.load()
    assert found.required_database_url() == URL
    assert found.broker_url == "redis://:broker-canary@queue:6379/0"


def test_a_key_is_read_from_its_file_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a key which is exchanged needs no restart."""
    file = tmp_path / "key"
    monkeypatch.setenv("PROVIDER_KEY_FILE", str(file))
    for key in ("sk-1", "sk-2"):
        file.write_text(key + "\n")
        assert settings.secret("PROVIDER_KEY") == key
    assert settings.has_secret("PROVIDER_KEY")
    assert settings.secret("ANOTHER_KEY") is None


async def test_a_worker_s_requests_carry_the_key_that_was_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROVIDER_KEY_FILE", str(tmp_path / "key"))
    monkeypatch.setenv("MIGRATOR_DATABASE_URL", URL)
    worker = Worker.make("test")
    address = "https://api.example/v1"
    model = ModelSpec(
        model=V4, dimensions=64, base_url=address, api_key_env="PROVIDER_KEY", price_usd_per_mtok=(1.0, 1.0)
    )
    sent = []
    for key in ("sk-1", "sk-2"):
        (tmp_path / "key").write_text(key)
        sent.append(worker.http(model).headers["Authorization"])
    assert sent == ["Bearer sk-1", "Bearer sk-2"]
    assert "sk-" not in repr(worker)
    await worker.close()


def test_empty_variables_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docker compose sets a variable to nothing where `.env` has none."""
    (tmp_path / "key").write_text("sk-1")
    monkeypatch.setenv("PROVIDER_KEY", "")
    monkeypatch.setenv("PROVIDER_KEY_FILE", str(tmp_path / "key"))
    assert settings.secret("PROVIDER_KEY") == "sk-1"
    monkeypatch.setenv("PROVIDER_KEY_FILE", "")
    assert settings.secret("PROVIDER_KEY") is None


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "can't be read: No such file or directory"), (b" \n", "is empty"), (b"\xff\xfe", "is not text")],
)
def test_a_file_that_can_t_be_used_is_named_without_what_it_holds(
    content: bytes | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "database"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("MIGRATOR_DATABASE_URL_FILE", str(file))
    with pytest.raises(SettingInvalid) as refused:
        settings.load()
    assert refused.value.sentences()[0] == f"MIGRATOR_DATABASE_URL_FILE can't be used: {file} {words}."
    monkeypatch.setenv("PROVIDER_KEY_FILE", str(file))
    assert not settings.has_secret("PROVIDER_KEY")


def test_a_value_beside_its_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "database").write_text(URL)
    monkeypatch.setenv("MIGRATOR_DATABASE_URL", URL)
    monkeypatch.setenv("MIGRATOR_DATABASE_URL_FILE", str(tmp_path / "database"))
    with pytest.raises(SettingInvalid, match="MIGRATOR_DATABASE_URL_FILE is set too") as refused:
        settings.load()
    assert "canary" not in str(refused.value)


def test_a_brokers_certificate_and_name_are_looked_at() -> None:
    """kombu alone takes any certificate of a Redis, and any name of a RabbitMQ."""
    redis = settings.broker_tls("rediss://:secret@queue.example:6379/0")
    assert redis == {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
    assert settings.broker_tls("amqps://me:secret@queue.example//") == {"server_hostname": None}, "the address's own"
    for plain in ("redis://queue.example", "amqp://queue.example"):
        assert settings.broker_tls(plain) is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://me:canary@127.0.0.1:6379/0", "redis://me:***@127.0.0.1:6379/0"),
        ("redis://127.0.0.1/0?password=canary&db=1", "redis://127.0.0.1/0?password=***&db=1"),
        ("rediss://h/0?ssl_password=canary", "rediss://h/0?ssl_password=***"),
        ("rediss://me:canary@h/0?db=1&Password=can%26ary", "rediss://me:***@h/0?db=1&Password=***"),
        ("redis://me:can#ary@h/0", "(unreadable URL)"),
        ("redis://h/0?p%61ssword=canary", "redis://h/0?p%61ssword=***"),
        ("redis://h/0#password=canary", "redis://h/0#password=***"),
        ("redis:///0", "redis:///0"),
        ("redis+socket:///tmp/x.sock?virtual_host=1", "redis+socket:///tmp/x.sock?virtual_host=1"),
    ],
)
def test_p11_a_url_is_shown_without_its_passwords(url: str, shown: str) -> None:
    assert settings.without_password(url) == shown
