"""From the chart, the CRD and the operator of an earlier version to today's, with jobs in every state, and back.

Nothing trains again, whichever Helm does it. The earlier version comes from the history of git.
"""

import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from chart.rendering import CHART, NAMESPACE, RELEASE
from finetune_cluster.apiserver import ApiServer
from integration.operator_rig import CHILDREN, PODS, Rest, World, make_namespace
from integration.release import CRD, IMAGE, ROOT, Tools, answer_of, eventually, operator

Json = dict[str, Any]

EARLIER = "18eac05865009e4dbe41fcae68ebda8565748f4d"
"""Before searches and ensembles: another CRD, other rights, other settings."""
TEAM = "team-a"


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree of that commit."""
    folder = tmp_path_factory.mktemp("earlier")
    paths = ["charts/finetune-operator", "api", "operator"]
    done = subprocess.run(["git", "archive", EARLIER, *paths], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, (
        f"a clone with its history is needed (git fetch --unshallow): {done.stderr!r}"
    )
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tree:
        tree.extractall(folder, filter="data")
    return folder


@pytest.fixture(params=["helm", "helm3"])
def tools(request: pytest.FixtureRequest) -> Iterator[Tools]:
    with ApiServer.start(controllers=True) as server:
        yield Tools(server, request.param)


def identity(objects: list[Json]) -> dict[str, tuple[str, int | None]]:
    """What would change if an object were replaced or its spec written."""
    metas = [one["metadata"] for one in objects]
    return {meta["name"]: (meta["uid"], meta.get("generation")) for meta in metas}


def children(world: World) -> dict[str, tuple[str, int | None]]:
    """Jobs and pods of all attempts."""
    return identity([*world.rest.items(world.at(CHILDREN)), *world.rest.items(world.at(PODS))])


def test_jobs_outlive_an_upgrade_a_downgrade_and_an_uninstall(
    tools: Tools, earlier: Path, tmp_path: Path
) -> None:
    rest = Rest(tools.api)
    make_namespace(rest, NAMESPACE, inputs=False)
    world = make_namespace(rest, TEAM)
    tools.helm("install", str(earlier / "charts/finetune-operator"), "--set", IMAGE)
    before = schema_of(tools)
    with operator(tools, tmp_path, earlier):
        finished, running, pending, suspended = (
            world.apply(name, retry={"limit": 2}) for name in ("finished", "running", "pending", "suspended")
        )
        world.succeed(world.run(finished))
        status = world.until_phase(finished, "Succeeded")
        pod = world.run(running)
        world.until_phase(running, "Running")
        world.pod(pending)
        stopped = world.run(suspended)
        world.change(suspended, suspend=True)
        world.obey(stopped)
        world.until_phase(suspended, "Suspended")
    certificate = tools.get("secret", f"{RELEASE}-tls", "--namespace", NAMESPACE)["data"]
    there = children(world)

    with pytest.raises(AssertionError, match="missing propert"):
        tools.helm("upgrade", str(CHART), "--reuse-values")
    tools.helm("upgrade", str(CHART), "--reset-then-reuse-values")
    eventually(lambda: schema_of(tools) != before)
    assert children(world) == there
    with operator(tools, tmp_path) as upgraded:
        world.change(suspended, suspend=False)
        resumed = world.run(suspended, attempt=2)
        world.until_phase(suspended, "Running")
        assert there.items() <= children(world).items()
        assert set(children(world)) - set(there) == {resumed, resumed.rpartition("-")[0]}
        assert [len(world.children(name)) for name in (finished, running, pending)] == [1, 1, 1]
        world.succeed(pod)
        ended = world.until_phase(running, "Succeeded")
        assert [one["number"] for one in ended["attempts"]] == [1]
        assert world.status(finished).items() >= status.items()
        world.run(pending)
        world.until_phase(pending, "Running")
        world.apply("new", search={"parameters": [{"path": "training.batchSize", "choice": [8, 16]}]})
        eventually(lambda: world.status("new").get("trials"))
        assert upgraded.refusals() == []
    assert tools.get("secret", f"{RELEASE}-tls", "--namespace", NAMESPACE)["data"] == certificate

    today = schema_of(tools)
    downgrade = ["--reset-then-reuse-values", "--set", "crds.enabled=false"]
    tools.helm("upgrade", str(earlier / "charts/finetune-operator"), *downgrade)
    assert schema_of(tools) == today
    there = children(world)
    with operator(tools, tmp_path, earlier):
        world.until_reason("new", "InvalidSpec")
        assert "spec.search" in world.condition("new", "Stalled")["message"]
        world.succeed(world.pod(pending))
        world.until_phase(pending, "Succeeded")
        assert world.status(running)["phase"] == "Succeeded"
    assert children(world) == there

    tools.helm("uninstall")
    tools.kubectl("get", CRD)
    assert children(world) == there, "what trains goes on"
    assert {"finished", "running", "pending", "suspended", "new"} <= set(tools.names("finetunejobs", TEAM))


def test_the_new_operator_leads_when_no_operator_without_leader_election_is_left(
    tools: Tools, earlier: Path, tmp_path: Path
) -> None:
    """The rolling update starts it beside the old one, which writes until its pod ends."""
    rest = Rest(tools.api)
    system = make_namespace(rest, NAMESPACE, inputs=False)
    world = make_namespace(rest, TEAM)
    tools.helm("install", str(earlier / "charts/finetune-operator"), "--set", IMAGE)
    of_the_release = f"app.kubernetes.io/instance={RELEASE}"
    eventually(lambda: tools.names("pods", NAMESPACE, of_the_release))
    (old,) = tools.names("pods", NAMESPACE, of_the_release)
    system.bind(old)
    (tmp_path / "new").mkdir()
    with ExitStack() as first:
        first.enter_context(operator(tools, tmp_path, earlier))
        tools.helm("upgrade", str(CHART), "--reset-then-reuse-values")
        with operator(tools, tmp_path / "new") as new:
            eventually(lambda: f"{old} runs an operator that knows no leader election" in new.log.read_text())
            world.pod(world.apply("by-the-old-one"))
            assert "finetune_operator_leader 0.0" in answer_of(f"{new.http}/metrics")[1]
            first.close()
            world.apply("by-the-new-one")
            system.remove(old)
            world.pod("by-the-new-one")
            assert "finetune_operator_leader 1.0" in answer_of(f"{new.http}/metrics")[1]
            assert new.refusals() == []


def schema_of(tools: Tools) -> str:
    """The stored definition."""
    return json.dumps(tools.get(CRD)["spec"])
