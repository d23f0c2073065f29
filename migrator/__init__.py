"""Moves a live pgvector table from one embedding model to the next.

Reading order: `lifecycle` (what states there are), `orchestrator` (the story), `backfill` (how rows
are re-embedded), `target.capture` (how live writes are seen), `cutover` (the swap and the way back).

Floors (a module imports only from floors below its own; tests/unit/test_floors.py proves it):
0 words and pure sums, 1 state / provider / target, 2 the steps, 3 the orchestrator, 4 doors.
"""

__version__ = "0.1.0"
