"""Serving the simulator: one process, one loopback port, until it is stopped.

Floor 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import uvicorn

from migrator.demo.simulator.account import Account
from migrator.demo.simulator.app import make_app
from migrator.demo.simulator.backends import Backend, Deterministic, RealModels
from migrator.demo.simulator.wire import Cuttable
from migrator.errors import OperatorError

HOST = "127.0.0.1"


@dataclass(eq=False)
class PortTaken(OperatorError):
    """Something listens there already."""

    port: int

    runbook = "rehearsal-not-started"
    happened = "Port {port} of 127.0.0.1 is taken."
    state = "Nothing was started."
    next = "End what listens there, or take a free port: `migrator simulate --port 0`."


def make_backend(name: str) -> Backend:
    """Return what makes the vectors, loaded and warm: the first request does not pay for it."""
    backend: Backend = Deterministic() if name == "deterministic" else RealModels()
    for model, dims in backend.models().items():
        backend.embed(model, ["warm"], min(dims))
    return backend


def serve(backend: Backend, account: Account, port: int) -> None:
    """Serve until stopped."""
    uvicorn.run(
        make_app(backend, account),
        host=HOST,
        port=port,
        log_level="warning",
        access_log=False,
        http=Cuttable,
        lifespan="off",
        # Who stops it does not wait for a client that it left stalling.
        timeout_graceful_shutdown=1,
    )
