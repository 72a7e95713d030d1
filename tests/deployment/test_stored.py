"""FineTuneJobs in every state, as operators of earlier versions left them, under today's CRD and operator: what is over
stays as it is, what runs goes on in the same pod, and everything else continues to its end.

`tests/golden/stored/first.json` was recorded with commit 18eac05, before searches and ensembles; `searches.json` has
their parents, preflight and a queue as well. No recording may be made again: each is a promise to those who upgrade.
"""

import json
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployment.stored import KINDS, TEAM, Recording, bring_about, operator_of, result, runs_of
from finetune_api.run import RunConfig, RunReport
from finetune_cluster.apiserver import ApiServer
from integration.operator_rig import (
    CHILDREN,
    MERGE,
    PODS,
    ROOT,
    Rest,
    World,
    install_crd,
    make_namespace,
)
from integration.test_operator_preflight import PASSED

Json = dict[str, Any]

GOLDEN = ROOT / "tests" / "golden" / "stored"
RECORDINGS = sorted(GOLDEN.glob("*.json"))
FIRST = "18eac05865009e4dbe41fcae68ebda8565748f4d"
OVER = ("succeeded", "failed")
RUN = ("running", "retried", "pending")
SETTLED = 3.0
"""Seconds in which an operator that is ready has visited every job."""


@pytest.fixture(params=RECORDINGS, ids=lambda path: path.stem)
def recording(request: pytest.FixtureRequest) -> Recording:
    return Recording.read(request.param)


@pytest.fixture
def server(recording: Recording) -> Iterator[ApiServer]:
    with ApiServer.start(controllers=True, fill=recording.put) as started:
        yield started


@pytest.fixture
def world(server: ApiServer) -> World:
    rest = Rest(server)
    install_crd(rest)
    return make_namespace(rest, TEAM, inputs=False)


def objects(world: World) -> dict[str, str]:
    """The uid of every Job and pod."""
    found = [*world.rest.items(world.at(CHILDREN)), *world.rest.items(world.at(PODS))]
    return {one["metadata"]["name"]: one["metadata"]["uid"] for one in found}


def pod_of(world: World, name: str, attempt: int) -> str:
    selector = f"finetune.dev/job-name={name},finetune.dev/attempt={attempt}"
    (found,) = world.rest.items(world.at(PODS), selector)
    return str(found["metadata"]["name"])


def names(recording: Recording) -> set[str]:
    return {one["metadata"]["name"] for one in recording.objects["finetune.dev/finetunejobs"]}


def test_what_is_stored_is_read_and_goes_on_to_its_end(
    recording: Recording, server: ApiServer, world: World, tmp_path: Path
) -> None:
    before = {name: world.status(name) for name in names(recording)}
    there = objects(world)
    with operator_of(ROOT, server, log := tmp_path / "log"):
        time.sleep(SETTLED)
        assert objects(world) == there, "nothing is stopped, and nothing begins twice"
        for name in OVER:
            assert world.status(name) == before[name]
        stalled = [name for name in before if world.condition(name, "Stalled")]
        assert stalled == ["failed"]
        world.bind(pod_of(world, "pending", 1))
        for name in RUN:
            attempt = before[name]["attempt"]
            world.succeed(pod_of(world, name, attempt))
            ended = world.until_phase(name, "Succeeded")
            assert [one["number"] for one in ended["attempts"]] == list(range(1, attempt + 1))
        for name, attempt in {"suspended": 2, "born-suspended": 1}.items():
            world.change(name, suspend=False)
            world.succeed(world.run(name, attempt=attempt))
            world.until_phase(name, "Succeeded")
        if "search" in before:
            parents_go_on(world)
        for name in OVER:
            assert world.status(name) == before[name]
        assert "Traceback" not in log.read_text()


def parents_go_on(world: World) -> None:
    for parent in ("search", "ensemble"):
        first, second = runs_of(world, parent)
        assert world.status(first)["phase"] == "Succeeded"
        world.succeed(pod_of(world, second, 1), RunReport.model_validate(result()))
        world.succeed(world.run(parent))
        ended = world.until_phase(parent, "Succeeded")
        assert runs_of(world, parent) == [first, second]
        assert ended["model"]
    (checking,) = world.rest.items(world.at(PODS), "finetune.dev/job-name=preflight,finetune.dev/preflight=1")
    world.succeed(checking["metadata"]["name"], PASSED)
    world.succeed(world.run("preflight"))
    world.until_phase("preflight", "Succeeded")
    (child,) = world.children("queued")
    world.rest("PATCH", world.at(CHILDREN, child["metadata"]["name"]), {"spec": {"suspend": False}}, MERGE)
    world.succeed(world.run("queued"))
    world.until_phase("queued", "Succeeded")


def test_every_stored_configuration_of_a_run_is_read(recording: Recording) -> None:
    """A pod that is made again by its Job reads it with the image of then, a person with that of today."""
    kinds = set()
    for one in recording.objects["configmaps"]:
        config = json.loads(one["data"]["run.json"])
        kinds.add(config["kind"])
        if config["kind"] == "RunConfig":
            assert RunConfig.from_json(config).job.name == one["metadata"]["labels"]["finetune.dev/job-name"]
    assert "RunConfig" in kinds


def test_a_recording_has_a_job_in_every_state(recording: Recording) -> None:
    assert recording.objects.keys() == KINDS.keys()
    phases = {one["status"]["phase"] for one in recording.objects["finetune.dev/finetunejobs"]}
    assert phases == {"Pending", "Running", "Suspended", "Succeeded", "Failed"}
    assert {*OVER, *RUN, "suspended", "born-suspended"} <= names(recording)


def test_back_to_the_first_version_and_forth_again_nothing_that_runs_is_stopped(tmp_path: Path) -> None:
    """Under today's CRD, as the page on upgrades says. Fields that it does not know stall a job; its pods run on."""
    tree = tmp_path / "first"
    archive = tmp_path / "first.tar"
    parts = ["api", "operator"]
    done = subprocess.run(
        ["git", "archive", "-o", str(archive), FIRST, *parts], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 0, f"a clone with its history is needed: {done.stderr!r}"
    with tarfile.open(archive) as packed:
        packed.extractall(tree, filter="data")
    with ApiServer.start(controllers=True) as server:
        rest = Rest(server)
        install_crd(rest)
        world = make_namespace(rest, TEAM)
        with operator_of(ROOT, server, tmp_path / "log"):
            bring_about(world, searches=True)
        there = objects(world)
        with operator_of(tree, server, tmp_path / "log"):
            world.until_reason("search", "InvalidSpec")
            time.sleep(SETTLED)
            assert there.items() <= objects(world).items()
            phases = {one["metadata"]["name"]: one["status"].get("phase") for one in jobs_of(world)}
            assert [name for name, phase in phases.items() if phase == "Failed"] == ["failed"]
            world.succeed(pod_of(world, "running", 1))
            world.until_phase("running", "Succeeded")
        with operator_of(ROOT, server, log := tmp_path / "again"):
            parents_go_on(world)
            world.succeed(pod_of(world, "retried", 2))
            world.until_phase("retried", "Succeeded")
            ends = {name: (world.status(name)["phase"], len(world.status(name)["attempts"])) for name in OVER}
            assert ends == {"succeeded": ("Succeeded", 1), "failed": ("Failed", 1)}
            assert there.keys() <= objects(world).keys()
            assert "Traceback" not in log.read_text()


def jobs_of(world: World) -> list[Json]:
    return world.rest.items(f"/apis/finetune.dev/v1alpha1/namespaces/{TEAM}/finetunejobs")
