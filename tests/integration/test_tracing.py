"""Spans as an OpenTelemetry SDK collects them: a piece of work, the requests in it, and no word of any text."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from migrator.lifecycle import MigrationStatus as S
from migrator.spending.worker import Worker
from tests.deployment import KEY, Deployment
from tests.integration.steps import begin, to


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    """The one provider that a process may have."""
    made, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(made))
    trace.set_tracer_provider(provider)
    return made


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Iterator[InMemorySpanExporter]:
    exporter.clear()
    yield exporter
    exporter.clear()


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [each for each in spans.get_finished_spans() if each.name == name]


async def test_p11_requests_are_inside_their_batch_and_no_text_is_told(
    deployment: Deployment, worker: Worker, spans: InMemorySpanExporter
) -> None:
    await begin(deployment, worker, 30)
    spans.clear()
    await to(worker, S.READY)
    works = {each.context.span_id: dict(each.attributes or {}) for each in named(spans, "migrator.work")}
    (batch,) = [key for key, told in works.items() if str(told["migrator.batch"]).startswith("b")]
    assert works[batch] == {"migrator.migration": "docs", "migrator.batch": "b000001", "migrator.attempt": 1}
    inside = [each for each in named(spans, "embeddings") if each.parent and each.parent.span_id == batch]
    told = [dict(each.attributes or {}) for each in inside]
    assert sum(int(each["migrator.texts"]) for each in told) == 30
    assert {each["http.response.status_code"] for each in told} == {200}
    everything = "".join(each.to_json() for each in spans.get_finished_spans())
    assert KEY not in everything
    assert all(word not in everything for word in deployment.words(7)[1].split())


async def test_a_failure_is_told_by_its_class_and_no_words(
    deployment: Deployment, worker: Worker, spans: InMemorySpanExporter
) -> None:
    await begin(deployment, worker, 10)
    spans.clear()
    deployment.simulator.admin(faults=[{"kind": "dropped", "count": 1}])
    await to(worker, S.READY)
    failed = [each for each in named(spans, "embeddings") if not each.status.is_ok]
    assert [dict(each.attributes or {}).get("error.type") for each in failed] == ["ReadError"]
    assert all(not each.events for each in failed)
