"""Simulated GPUs: what is asked of the API server, whichever cluster the node is in."""

import json
from typing import Any

import pytest

from finetune_cluster import kind
from finetune_cluster.gpus import simulate_gpus
from finetune_cluster.kubectl import Kubectl


class Node(Kubectl):
    """A node of which kubectl knows the status."""

    def __init__(self) -> None:
        super().__init__(None)
        self.names, self.status = set[str](), {"capacity": dict[str, str](), "allocatable": dict[str, str]()}

    def get(self, *arguments: str) -> dict[str, Any]:
        self.names.add(arguments[1])
        return {"status": self.status}

    def run(self, *arguments: str, stdin: str | None = None) -> str:
        self.names.add(arguments[2])
        for change in json.loads(arguments[-1].removeprefix("--patch=")):
            _, part, name = change["path"].removeprefix("/").split("/")
            self.status[part][name.replace("~1", "/")] = change["value"]
        return ""


def test_the_node_reports_what_is_asked_for() -> None:
    node = Node()
    simulate_gpus(node, "a-node", 4)
    assert node.status == {part: {"nvidia.com/gpu": "4"} for part in ("capacity", "allocatable")}
    assert node.names == {"a-node"}


@pytest.mark.parametrize("clusters", ["finetune\nother", "other"])
def test_a_kind_cluster_has_them_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, clusters: str) -> None:
    node, commands = Node(), list[list[str]]()

    def run(command: list[Any]) -> str:
        commands.append([str(part) for part in command[1:3]])
        return clusters

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(kind, "run", run)
    monkeypatch.setattr(kind, "binary", lambda program: program)
    monkeypatch.setattr(kind, "Kubectl", lambda _: node)
    kind.KindCluster().up()
    assert commands[1] == (["export", "kubeconfig"] if "finetune" in clusters else ["create", "cluster"])
    assert node.names == {"finetune-control-plane"}
    assert node.status["allocatable"] == {"nvidia.com/gpu": "4"}
