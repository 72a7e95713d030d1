"""Simulated GPUs: what is asked of the API server, whichever cluster the node is in."""

import json
from typing import Any

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
