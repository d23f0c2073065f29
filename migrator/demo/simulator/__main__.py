"""Run the simulator for a demo or a test: `python -m migrator.demo.simulator --port N`. Operators: `migrator simulate`.

Floor 4.
"""

from __future__ import annotations

import argparse

from migrator.demo.simulator import server
from migrator.demo.simulator.account import Account
from migrator.demo.simulator.behaviour import Behaviour


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(prog="python -m migrator.demo.simulator")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--backend", choices=["deterministic", "models"], default="deterministic")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds per request")
    parser.add_argument("--rpm", type=float, help="requests per minute granted")
    parser.add_argument("--tpm", type=float, help="tokens per minute granted")
    wanted = parser.parse_args()
    behaviour = Behaviour(latency_seconds=wanted.latency, requests_per_minute=wanted.rpm, tokens_per_minute=wanted.tpm)
    server.serve(server.make_backend(wanted.backend), Account(behaviour), wanted.port)


if __name__ == "__main__":
    main()
