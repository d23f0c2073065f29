"""Reference of the metrics, from the list that the exporter serves.

Floor 5.
"""

from __future__ import annotations

from manual.markdown import code, table
from migrator.orchestrator.metrics import METRICS, UP, WORKERS

_ABOUT = """# Metrics

What `migrator exporter` serves. How it is run, and what the alert rules say: [Metrics](../docs/metrics.md). All are
gauges.
"""


def page() -> str:
    """Return the page."""
    rows = [[code(name), "", said] for name, said in (UP, WORKERS)]
    rows += [[code(each.name), ", ".join(map(code, ("migration", *each.labels))), each.help] for each in METRICS]
    return "\n".join([_ABOUT, table(["metric", "labels", "says"], rows)])
