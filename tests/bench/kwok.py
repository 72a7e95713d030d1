"""Pods that KWOK plays, on a node that kube-scheduler binds them to."""

import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

from finetune_cluster.apiserver import ApiServer
from finetune_cluster.binaries import binary
from integration.operator_rig import CLAIMS, Rest, World, until
from integration.test_operator_search import result

NODES, VOLUMES = "/api/v1/nodes", "/api/v1/persistentvolumes"
NODE, CLAIM = "kwok", "demo"
_ANNOTATION = "kwok.x-k8s.io/node"
_PLACE = 0.987654321
"""A loss that nothing else has, so that it can be replaced in a report."""

Json = dict[str, Any]


class Kwok:
    """KWOK and a scheduler, for as long as the block lasts."""

    def __init__(self, server: ApiServer, program: Path, folder: Path) -> None:
        self._server, self._program, self._folder = server, program, folder
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Kwok":
        stages = self._folder / "stages.yaml"
        stages.write_text(
            Path(__file__).with_name("kwok.yaml").read_text().replace("`REPORT`", f"`{_report()}`")
        )
        own = "--manage-all-nodes=false", f"--manage-nodes-with-annotation-selector={_ANNOTATION}=fake"
        self._start(self._program, f"--config={stages}", "--node-lease-duration-seconds=40", *own)
        self._start(binary("kube-scheduler"), "--leader-elect=false", "--secure-port=0")
        rest = Rest(self._server)
        rest("POST", NODES, {"metadata": {"name": NODE, "annotations": {_ANNOTATION: "fake"}}})
        until(
            lambda: _is_ready(rest.get(f"{NODES}/{NODE}")),
            f"the node is ready; see the logs in {self._folder}",
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def _start(self, program: Path, *flags: str) -> None:
        command = [str(program), f"--kubeconfig={self._server.kubeconfig}", *flags]
        with (self._folder / f"{program.name}.log").open("wb") as log:
            self._processes.append(subprocess.Popen(command, stdout=log, stderr=log))


def make_volume(world: World) -> None:
    """Bind the claim that trials read and write to a volume, which the scheduler looks up."""
    claim = world.rest("GET", world.at(CLAIMS, CLAIM))
    spec = {
        "accessModes": claim["spec"]["accessModes"],
        "capacity": claim["spec"]["resources"]["requests"],
        "hostPath": {"path": "/played"},
        "claimRef": {
            "kind": "PersistentVolumeClaim",
            "namespace": world.namespace,
            "name": CLAIM,
            "uid": claim["metadata"]["uid"],
        },
    }
    world.rest("POST", VOLUMES, {"metadata": {"name": f"{world.namespace}-{CLAIM}"}, "spec": spec})


def _report() -> str:
    """That of a trial as a template of Go's printf: %[1]s are digits."""
    text = result(_PLACE).model_dump_json(by_alias=True, exclude_none=True)
    return text.replace("%", "%%").replace(str(_PLACE), "0.1%[1]s")


def _is_ready(node: Json | None) -> bool:
    found = (node or {}).get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in found)
