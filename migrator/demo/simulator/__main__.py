"""Run the simulator: `python -m migrator.demo.simulator --port N --backend deterministic|models`.

Floor 4.
"""

from __future__ import annotations

import argparse

import uvicorn

from migrator.demo.simulator.account import Account, Bucket
from migrator.demo.simulator.app import make_app
from migrator.demo.simulator.backends import Backend, Deterministic, RealModels


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(prog="python -m migrator.demo.simulator")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--backend", choices=["deterministic", "models"], default="deterministic")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds per request")
    parser.add_argument("--rpm", type=float, help="requests per minute granted")
    parser.add_argument("--tpm", type=float, help="tokens per minute granted")
    wanted = parser.parse_args()
    account = Account(latency_seconds=wanted.latency, requests=Bucket(wanted.rpm), tokens=Bucket(wanted.tpm))
    backend: Backend = Deterministic() if wanted.backend == "deterministic" else RealModels()
    # One text each, so that the first request of the demo does not pay for loading the models.
    for model, dims in backend.models().items():
        backend.embed(model, ["warm"], min(dims))
    uvicorn.run(make_app(backend, account), host="127.0.0.1", port=wanted.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
