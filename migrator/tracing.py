"""Spans of OpenTelemetry, where its API is installed and somebody set it up; elsewhere nothing at all.

Floor 0. Promise (P11): attributes are names, counts and classes; of an exception its class is told, and no words. Who
collects them is not our business: `opentelemetry-instrument celery -A workers.app worker` reads OTEL_ variables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

try:
    from opentelemetry import trace
except ImportError:
    _TRACES = False
else:
    _TRACES = True


@contextmanager
def span(name: str, attributes: Mapping[str, str | int]) -> Iterator[Callable[[str, str | int], None]]:
    """Make a span of what is done inside; yields what adds an attribute to it."""
    if not _TRACES:
        yield lambda *_: None
        return
    tracer = trace.get_tracer("migrator")
    with tracer.start_as_current_span(
        name, attributes=dict(attributes), record_exception=False, set_status_on_exception=False
    ) as made:
        try:
            yield made.set_attribute
        except BaseException as error:
            made.set_attribute("error.type", type(error).__name__)
            made.set_status(trace.StatusCode.ERROR)
            raise
