"""Virtual latency: a base, a share for each text, jitter and a long tail, as slow or as fast as is wanted.

Floor 4. Source: measured against Model Studio by others, 0.57 s for one text and 1.04 s for twenty: 0.55 s + 0.025 s
a text.
"""

from __future__ import annotations

import random

from migrator.demo.simulator.behaviour import Behaviour

#: What the endpoint takes in life; a rehearsal starts with these.
LIFELIKE = {
    "latency_seconds": 0.55,
    "latency_per_text_seconds": 0.025,
    "latency_jitter": 0.2,
    "latency_tail_share": 0.01,
    "latency_tail_seconds": 5.0,
}


def seconds(behaviour: Behaviour, texts: int, chance: random.Random) -> float:
    """Return how long this request takes, in real seconds."""
    plain = behaviour.latency_seconds + behaviour.latency_per_text_seconds * texts
    drawn = plain * (1 + behaviour.latency_jitter * chance.uniform(-1, 1))
    if chance.random() < behaviour.latency_tail_share:
        drawn += behaviour.latency_tail_seconds
    return drawn * behaviour.latency_scale / behaviour.speed
