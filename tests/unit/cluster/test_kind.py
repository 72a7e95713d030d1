"""The kind cluster against a Docker that only remembers: what is created, what is ours, what is left."""

from pathlib import Path
from typing import Any

import pytest

from finetune_cluster import record
from finetune_cluster.errors import ClusterError
from finetune_cluster.kind import cluster as kind
from finetune_cluster.kind import docker, registry
from finetune_cluster.kind.engine import Engine

CERTS = "/etc/containerd/certs.d"


class Docker:
    """Containers and networks by name, as `docker inspect` shows them."""

    def __init__(self) -> None:
        self.there: dict[str, dict[str, Any]] = {}
        self.fails = ""

    def inspect(self, _what: str, *names: str) -> list[dict[str, Any]]:
        return [self.there[name] for name in names if name in self.there]

    def docker(self, *arguments: Any) -> str:
        words = [str(argument) for argument in arguments]
        labels = dict(
            word.removeprefix("--label=").split("=") for word in words if word.startswith("--label=")
        )
        if words[:2] == ["network", "create"]:
            self.there[words[-1]] = {"Labels": labels}
        elif words[0] == "run":
            name = next(word.removeprefix("--name=") for word in words if word.startswith("--name="))
            published = next(
                word.removeprefix("--publish=") for word in words if word.startswith("--publish=")
            )
            host, port, inside = published.split(":")
            bindings = {f"{inside}/tcp": [{"HostIp": host, "HostPort": port}]}
            self.there[name] = {"Config": {"Labels": labels}, "HostConfig": {"PortBindings": bindings}}
        elif words[0] == "rm" or words[:2] == ["network", "rm"]:
            del self.there[words[-1]]
        return ""

    def add_node(self, certs: Path | str) -> None:
        self.there[kind.NODE] = {
            "Config": {"Labels": {}},
            "Mounts": [{"Destination": CERTS, "Source": str(certs)}],
        }


class Ready:
    """kubectl for a node that is ready."""

    def __init__(self, _: object) -> None:
        pass

    def get(self, *_: str) -> dict[str, Any]:
        return {"items": [{"metadata": {"name": kind.NODE}, "status": {"conditions": [READY]}}]}


READY = {"type": "Ready", "status": "True"}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Docker:
    fake = Docker()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("KIND_NODE_IMAGE", "a-node:v1")
    monkeypatch.setattr(docker, "engine", Engine)
    monkeypatch.setattr(docker, "inspect", fake.inspect)
    monkeypatch.setattr(docker, "docker", fake.docker)
    monkeypatch.setattr(docker, "has_image", lambda _: True)
    monkeypatch.setattr(kind, "binary", lambda program: program)
    monkeypatch.setattr(kind, "Kubectl", Ready)
    monkeypatch.setattr(kind, "simulate_gpus", lambda *_: None)
    monkeypatch.setattr(kind, "_SECONDS_OF_CLIENT", 0)

    def run(command: list[str], env: dict[str, str]) -> str:
        assert command[1:3] == ["create", "cluster"]
        assert env == {"KIND_EXPERIMENTAL_DOCKER_NETWORK": kind.NETWORK}
        fake.add_node(tmp_path / "state" / "finetune-operator" / "kind" / "certs.d")
        if fake.fails:
            raise ClusterError(fake.fails)
        return ""

    monkeypatch.setattr(kind, "run", run)
    return fake


def test_a_start_makes_node_registry_and_network_and_a_stop_removes_them(engine: Docker) -> None:
    made = kind.KindCluster()
    made.up()
    assert set(engine.there) == {kind.NODE, registry.NAME, kind.NETWORK}
    assert made.kubeconfig == made.state / "kubeconfig"
    hosts = list((made.state / "certs.d").rglob("hosts.toml"))
    assert [file.parent.name for file in hosts] == [registry.address()]
    assert record.recall() == "kind"
    made.down()
    assert engine.there == {}
    assert not made.state.exists()
    assert record.recall() == ""


def test_a_failed_start_leaves_nothing(engine: Docker) -> None:
    engine.fails = "kind gives up"
    made = kind.KindCluster()
    with pytest.raises(ClusterError, match="kind gives up"):
        made.up()
    assert engine.there == {}
    assert not made.state.exists()
    assert record.recall() == "", "the next CLUSTER=auto chooses anew"


def test_a_start_after_a_killed_one_begins_anew(engine: Docker) -> None:
    made = kind.KindCluster()
    made.up()
    (made.state / "whole").unlink()  # as a start that was ended with SIGKILL leaves it
    with pytest.raises(ClusterError, match="No kind cluster is running"):
        assert made.kubeconfig
    before = registry.address()
    made.up()
    assert registry.address() != before
    assert made.kubeconfig


def test_a_second_start_keeps_the_node(engine: Docker) -> None:
    made = kind.KindCluster()
    made.up()
    engine.there[kind.NODE]["Id"] = "the first"
    made.up()
    assert engine.there[kind.NODE]["Id"] == "the first"


@pytest.mark.parametrize("name", [kind.NODE, registry.NAME, kind.NETWORK])
def test_what_others_made_under_our_names_is_refused_and_never_removed(engine: Docker, name: str) -> None:
    engine.there[name] = {"Labels": {}, "Config": {"Labels": {"dev.finetune.cluster": "/elsewhere"}}}
    theirs = dict(engine.there)
    made = kind.KindCluster()
    with pytest.raises(ClusterError, match=f"Docker has {name} already.*CLUSTER=existing"):
        made.up()
    made.down()
    assert engine.there == theirs


def test_the_node_of_another_state_folder_is_not_ours(engine: Docker) -> None:
    engine.add_node("/home/finetune/other/kind/certs.d")
    made = kind.KindCluster()
    made.down()
    assert kind.NODE in engine.there
    with pytest.raises(ClusterError, match="No kind cluster is running"):
        assert made.kubeconfig


def test_a_docker_that_is_stopped_since_is_no_silent_removal(
    engine: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = kind.KindCluster()
    made.up()
    monkeypatch.setattr(docker, "engine", lambda: Engine("Docker is not running at x. Start it."))
    with pytest.raises(ClusterError, match="Docker is not running"):
        made.down()
    assert record.recall() == "kind"
