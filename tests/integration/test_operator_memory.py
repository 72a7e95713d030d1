"""The memory of a start stays below the chart's limit, whatever the size of the tenants' objects."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from builders import job, script_job
from chart.rendering import CHART
from finetune_cluster.apiserver import ApiServer
from finetune_operator.cluster import PAGE
from integration.operator_rig import (
    JOBS,
    Operator,
    Rest,
    World,
    make_namespace,
    running,
    until,
)

NAMESPACE = "large"
LARGE = 100


def limit_of_the_chart() -> int:
    """In MiB."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    return int(values["resources"]["limits"]["memory"].removesuffix("Mi"))


@pytest.fixture(scope="module")
def world(rest: Rest) -> Iterator[World]:
    """A namespace with FineTuneJobs of 754 KiB each."""
    made = make_namespace(rest, NAMESPACE, inputs=False)
    env = [{"name": f"V{number}", "value": "y" * 4096} for number in range(64)]
    command = ["python"] + ["x" * 4096] * 63
    for number in range(LARGE):
        body = script_job(f"large-{number}", command=command, env=env, suspend=True)
        body["metadata"]["annotations"] = {"note": "z" * 250_000}
        made.rest("POST", made.at(JOBS), body)
    yield made
    made.rest("DELETE", f"/api/v1/namespaces/{NAMESPACE}")


@pytest.fixture
def operator(cluster: ApiServer, world: World, tmp_path: Path) -> Iterator[Operator]:
    with running(cluster.kubeconfig, tmp_path, namespaces=[NAMESPACE]) as started:
        yield started


def peak_mib(pid: int) -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) / 1024


def test_a_start_with_a_hundred_of_the_largest_jobs_takes_less_than_half_of_the_limit(
    operator: Operator, world: World
) -> None:
    until(lambda: f'phase="Suspended"}} {LARGE}' in operator.metrics(), "every job is suspended")
    assert peak_mib(operator.process.pid) < limit_of_the_chart() / 2


@pytest.fixture(scope="module")
def dense(rest: Rest) -> Iterator[World]:
    """A namespace with searches of 1.2 MB each, all of it empty lists, which take thirty times as much as objects."""
    made = make_namespace(rest, "dense", inputs=False)
    values = "[" + ",".join(["[]"] * 400_000) + "]"
    for number in range(PAGE):
        search = {"parameters": [{"path": "training.seed", "choice": [1, "HERE"]}]}
        body = job(f"dense-{number}", search=search, resources={"gpusPerNode": 0}, suspend=True)
        made.rest.text("POST", made.at(JOBS), json.dumps(body).replace('"HERE"', values))
    yield made
    made.rest("DELETE", "/api/v1/namespaces/dense")


def said_of(world: World, name: str) -> str:
    return str(world.condition(name, "Running").get("message", ""))


def test_a_start_with_jobs_of_hundreds_of_thousands_of_values_stays_below_the_limit(
    cluster: ApiServer, dense: World, tmp_path: Path
) -> None:
    with running(cluster.kubeconfig, tmp_path, namespaces=["dense"]) as started:
        until(lambda: "too many values" in said_of(dense, f"dense-{PAGE - 1}"), "the last one is refused")
        assert peak_mib(started.process.pid) < limit_of_the_chart()
