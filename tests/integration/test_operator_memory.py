"""The memory of a start stays below the chart's limit, whatever the size of the tenants' objects."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from builders import script_job
from chart.rendering import CHART
from finetune_cluster.apiserver import ApiServer
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
