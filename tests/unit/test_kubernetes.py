"""deploy/kubernetes.yaml, as far as it can be tried without a cluster.

Its commands, probes and environments are those of docker-compose.yml, which tests/acceptance/test_compose.py runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PARTS: list[dict[str, Any]] = list(yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text(encoding="utf-8")))
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
NAMES = [each["metadata"]["name"] for each in PARTS]


@pytest.fixture(params=PARTS, ids=NAMES)
def part(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = request.param
    return found


def test_there_is_a_deployment_for_each_service_of_ours() -> None:
    ours = {name for name, service in SERVICES.items() if "build" in service and "profiles" not in service}
    assert sorted(NAMES) == sorted(ours)
    assert {(each["apiVersion"], each["kind"]) for each in PARTS} == {("apps/v1", "Deployment")}


def test_it_runs_and_asks_what_compose_does(part: dict[str, Any]) -> None:
    pod = part["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    service = SERVICES[part["metadata"]["name"]]
    assert container["command"] == service["command"]
    assert container["livenessProbe"]["exec"]["command"] == service["healthcheck"]["test"][1:]
    given = {each["name"]: each["value"] for each in container["env"]}
    assert given.keys() == service["environment"].keys()
    for name, value in given.items():
        told = str(service["environment"][name])
        assert told in {value, f"${{{name}:-{value}}}"}, name


def test_each_pod_gets_the_secrets_that_it_needs_as_files(part: dict[str, Any]) -> None:
    pod = part["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    volumes = {each["name"]: each for each in pod["volumes"]}
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert volumes.keys() == mounts.keys()
    assert mounts["secrets"] == "/run/secrets"
    items = volumes["secrets"]["secret"]["items"]
    assert [each["path"] for each in items] == SERVICES[part["metadata"]["name"]]["secrets"]
    assert all(each["key"] == each["path"] for each in items)
    assert "valueFrom" not in str(container["env"]), "a secret in an environment"


def test_a_pod_may_no_more_than_it_needs(part: dict[str, Any]) -> None:
    pod = part["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"]
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert f"USER {pod['securityContext']['runAsUser']}" in dockerfile
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip


def test_a_worker_has_time_to_finish_its_batch_and_selectors_fit(part: dict[str, Any]) -> None:
    pod = part["spec"]["template"]["spec"]
    if "worker" in pod["containers"][0]["command"]:
        assert pod["terminationGracePeriodSeconds"] == 180
        assert SERVICES[part["metadata"]["name"]]["stop_grace_period"] == "3m"
    assert part["spec"]["selector"]["matchLabels"] == part["spec"]["template"]["metadata"]["labels"]
