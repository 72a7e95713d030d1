"""Objects as an API server stores them: recorded while an operator of some version is at work, and put back as they
were into the etcd of another API server, with their uids, their owners and their ages.

A recording is made of the tree of a version, or of this one:

    PYTHONPATH=$PYTHONPATH:tests python -m deployment.stored TREE tests/golden/stored/VERSION.json
"""

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import urllib3

from finetune_api.run import ExitCode, RunReport
from finetune_cluster.apiserver import ApiServer
from integration.operator_rig import (
    CHILDREN,
    CLAIMS,
    CONFIG_MAPS,
    JOBS,
    PODS,
    TRAINER,
    Rest,
    World,
    install_crd,
    make_namespace,
    until,
)
from ports import free_port

Json = dict[str, Any]

TEAM = "team"
KINDS = {
    "finetune.dev/finetunejobs": JOBS,
    "jobs": CHILDREN,
    "pods": PODS,
    "configmaps": CONFIG_MAPS,
    "persistentvolumeclaims": CLAIMS,
}
"""Where etcd has each kind, and where the API server has it; owners come first."""
_MOMENT = re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True)
class Recording:
    """Every object of a namespace, and when it was recorded."""

    moment: datetime
    objects: dict[str, list[Json]]

    @classmethod
    def read(cls, path: Path) -> "Recording":
        found = json.loads(path.read_text())
        return cls(datetime.strptime(found["moment"], _FORMAT).replace(tzinfo=UTC), found["objects"])

    @classmethod
    def of(cls, rest: Rest) -> "Recording":
        objects = {kind: rest.items(path.format(TEAM)) for kind, path in KINDS.items()}
        for kind, items in objects.items():
            for one in items:
                one["metadata"].pop("managedFields", None)
                one["metadata"].pop("resourceVersion")
                one |= _typed(kind)
        own = [one for one in objects["configmaps"] if one["metadata"]["name"] != "kube-root-ca.crt"]
        return cls(datetime.now(UTC), objects | {"configmaps": own})

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        moment = self.moment.strftime(_FORMAT)
        path.write_text(
            json.dumps({"moment": moment, "objects": self.objects}, indent=1, sort_keys=True) + "\n"
        )

    def put(self, etcd: str) -> None:
        """Write all of them, as old as they were when they were recorded."""
        age = datetime.now(UTC) - self.moment
        for kind, items in self.objects.items():
            for one in items:
                key = f"/registry/{kind}/{TEAM}/{one['metadata']['name']}"
                value = _MOMENT.sub(lambda found: _later(found[0], age), json.dumps(one))
                body = {"key": _encoded(key), "value": _encoded(value)}
                answer = urllib3.request("POST", f"{etcd}/v3/kv/put", json=body, retries=False, timeout=10)
                assert answer.status == 200, answer.data


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _later(moment: str, age: timedelta) -> str:
    return (datetime.strptime(moment, _FORMAT) + age).strftime(_FORMAT)


def _typed(kind: str) -> Json:
    """A list's items carry neither of these."""
    of = {
        "finetune.dev/finetunejobs": ("finetune.dev/v1alpha1", "FineTuneJob"),
        "jobs": ("batch/v1", "Job"),
        "pods": ("v1", "Pod"),
        "configmaps": ("v1", "ConfigMap"),
        "persistentvolumeclaims": ("v1", "PersistentVolumeClaim"),
    }[kind]
    return {"apiVersion": of[0], "kind": of[1]}


@contextmanager
def operator_of(tree: Path, server: ApiServer, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The operator of a version over the namespace, with settings that every version has."""
    port = free_port()
    given = {"trainer_image": TRAINER, "http_port": port, "progress_port": 0, "retry_backoff": 0.1}
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(log.parent),
        "KUBECONFIG": str(server.kubeconfig),
        "PYTHONPATH": ":".join(str(tree / part) for part in ("api", "core", "operator")),
        "FINETUNE_OPERATOR_NAMESPACES": json.dumps([TEAM]),
    } | {f"FINETUNE_OPERATOR_{name}".upper(): str(value) for name, value in given.items()}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "finetune_operator"], env=environment, stdout=output, stderr=output
        )

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return urllib3.request("GET", f"http://127.0.0.1:{port}/readyz", retries=False).status == 200
        except urllib3.exceptions.HTTPError:
            return False

    try:
        until(ready, "the operator is ready")
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)


def bring_about(world: World, *, searches: bool) -> None:
    """A FineTuneJob in every state, each named after it."""
    cpu: Json = {"resources": {"gpusPerNode": 0}}
    world.apply("born-suspended", suspend=True)
    world.pod(world.apply("pending"))
    world.run(world.apply("running"))
    world.until_phase("running", "Running")
    world.succeed(world.run(world.apply("succeeded")))
    world.until_phase("succeeded", "Succeeded")
    world.end(world.run(world.apply("failed")), ExitCode.DATA)
    world.until_phase("failed", "Failed")
    world.end(world.run(world.apply("retried", retry={"limit": 2})), ExitCode.INTERRUPTED)
    world.run("retried", attempt=2)
    until(lambda: world.status("retried").get("attempt") == 2, "the second attempt is in the status")
    world.until_phase("retried", "Running")
    pod = world.run(world.apply("suspended"))
    world.until_phase("suspended", "Running")
    world.change("suspended", suspend=True)
    world.obey(pod)
    world.until_phase("suspended", "Suspended")
    if searches:
        _bring_about_parents(world, cpu)


def _bring_about_parents(world: World, cpu: Json) -> None:
    """What versions since the first search have: parents, preflight, a queue."""
    choice = {"path": "training.batchSize", "choice": [16, 32]}
    world.apply("search", search={"algorithm": "Grid", "parameters": [choice]})
    world.apply("ensemble", ensemble={"members": 2, "parallelism": 2})
    first = until(lambda: _runs(world, "search"), "the search has a trial")[0]
    world.succeed(world.run(first), RunReport.model_validate(result()))
    second = until(lambda: _runs(world, "search")[1:], "the search has a second trial")[0]
    world.run(second)
    one, other = until(lambda: len(found := _runs(world, "ensemble")) == 2 and found, "it has members")
    world.succeed(world.run(one), RunReport.model_validate(result()))
    world.run(other)
    for name in (second, other):
        world.until_phase(name, "Running")
    until(lambda: (world.status("search").get("trials") or {}).get("succeeded") == 1, "a trial has ended")
    world.apply("preflight", resources={"gpusPerNode": 1}, preflight="Required")
    world.preflight_pod("preflight")
    world.until_reason("preflight", "Preflight")
    world.apply("queued", scheduling={"queue": "team"})
    until(lambda: world.children("queued"), "the queued job has a Job")
    until(lambda: world.status("queued").get("phase") == "Pending", "it is pending")


def result() -> Json:
    """What a trial or a member reports at its end."""
    model = {"uri": "pvc://out/model", "digest": "sha256:" + "ab" * 32, "format": "safetensors", "files": 7}
    best = {"step": 100, "metric": "loss", "value": 0.5}
    return {"exitCode": 0, "model": model | {"metrics": {"eval_loss": 0.5}}, "best": best}


def _runs(world: World, parent: str) -> list[str]:
    uid = world.job(parent)["metadata"]["uid"]
    found = world.rest.items(JOBS.format(TEAM), f"finetune.dev/parent-uid={uid}")
    return sorted(one["metadata"]["name"] for one in found)


runs_of = _runs


def record(tree: Path, to: Path) -> None:
    """Run the operator of a tree until there is a job in every state, and write what is stored then."""
    definition = next((tree / "crds").glob("*.yaml"))
    with ApiServer.start(controllers=True) as server:
        rest = Rest(server)
        install_crd(rest, _yaml(definition))
        world = make_namespace(rest, TEAM)
        log = server.folder / "operator.log"
        with operator_of(tree, server, log):
            bring_about(world, searches="search" in definition.read_text())
            Recording.of(rest).write(to)


def _yaml(path: Path) -> Json:
    from ruamel.yaml import YAML

    return dict(YAML(typ="safe").load(path.read_text()))


if __name__ == "__main__":
    record(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
