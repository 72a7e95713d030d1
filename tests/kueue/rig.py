"""Kueue and kube-scheduler as real processes beside an API server, with the queues that tests use."""

import base64
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from finetune_cluster.apiserver import ApiServer
from finetune_cluster.binaries import binary, family_of
from finetune_cluster.toolchain import go
from integration.operator_rig import MERGE, Rest, World, until
from ports import free_port

Json = dict[str, Any]

SYSTEM = "kueue-system"
QUEUES = "/apis/kueue.x-k8s.io/v1beta2"
WORKLOADS = QUEUES + "/namespaces/{}/workloads"
CLASSES = "/apis/scheduling.k8s.io/v1/priorityclasses"
NODES = "/api/v1/nodes"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
_GROUP = "kueue.x-k8s.io"
_ADMISSION = "/apis/admissionregistration.k8s.io/v1"
_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_SECRETS = f"/api/v1/namespaces/{SYSTEM}/secrets"
_SECRET = "kueue-webhook-server-cert"
_SERVICE = "kueue-webhook-service"
_KINDS = ("job", "workload", "clusterqueue", "cohort", "localqueue", "resourceflavor")
"""Whose webhooks are installed: those of pods and of other frameworks would only cost time."""


class Kueue:
    """Kueue's CRDs, webhooks and controllers, for as long as the block lasts.

    Its manifests are those of its Go module. The process runs outside of the cluster: the Service of its webhooks is a
    name that leads to it, and its certificate is written to a folder, as a kubelet would do.
    """

    def __init__(self, kubeconfig: Path, rest: Rest, folder: Path, host: str = "localhost") -> None:
        self._kubeconfig, self._rest, self._folder, self._host = kubeconfig, rest, folder, host
        self._port, self._health = free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Kueue":
        self._install()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End it, and let the API server ask its webhooks no more."""
        self.stop()
        for kind in ("mutating", "validating"):
            self._rest(
                "DELETE", f"{_ADMISSION}/{kind}webhookconfigurations/kueue-{kind}-webhook-configuration"
            )

    def start(self) -> None:
        """Start the process and wait until it answers."""
        config = self._folder / "kueue.yaml"
        config.write_text(json.dumps(self._configuration()))
        environment = {
            "KUBECONFIG": str(self._kubeconfig),
            "PATH": os.environ["PATH"],
            "HOME": str(self._folder),
        }
        with (self._folder / "kueue.log").open("ab") as log:
            command = [str(binary("kueue")), f"--config={config}"]
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        self._mount_certificate()
        until(self._works, f"Kueue works; {self.log()}", seconds=120)

    def stop(self) -> None:
        """End the process."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def uninstall(self) -> None:
        """Delete its objects, which it has to let go of itself, for a cluster that outlives it."""
        for name in self._definitions():
            self._rest("DELETE", f"{_CRDS}/{name}")
        until(lambda: not self._definitions(), f"Kueue lets go of its objects; {self.log()}")
        self._rest("DELETE", f"/api/v1/namespaces/{SYSTEM}")

    def log(self) -> str:
        """The end of the log."""
        return (self._folder / "kueue.log").read_text(errors="replace")[-3000:]

    def _install(self) -> None:
        for body in _manifests():
            match body["kind"]:
                case "Namespace":
                    self._rest("POST", "/api/v1/namespaces", body)
                case "CustomResourceDefinition":
                    self._rest("POST", _CRDS, self._ported(body))
                case "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration":
                    wanted = [
                        hook for hook in body["webhooks"] if hook["name"][1:].removesuffix(".kb.io") in _KINDS
                    ]
                    path = f"{_ADMISSION}/{body['kind'].lower()}s"
                    self._rest("POST", path, self._ported(body | {"webhooks": wanted}))
                case "Secret":
                    self._rest("POST", _SECRETS, body)
        spec = {"type": "ExternalName", "externalName": self._host}
        self._rest(
            "POST", f"/api/v1/namespaces/{SYSTEM}/services", {"metadata": {"name": _SERVICE}, "spec": spec}
        )

    def _definitions(self) -> list[str]:
        found = self._rest.items(_CRDS)
        return [one["metadata"]["name"] for one in found if one["spec"]["group"] == _GROUP]

    def _ported(self, body: Any) -> Any:
        """The same with the port at which this process serves its webhooks."""
        if isinstance(body, list):
            return [self._ported(one) for one in body]
        if not isinstance(body, dict):
            return body
        changed = {key: self._ported(value) for key, value in body.items()}
        if changed.get("name") == _SERVICE:
            changed["port"] = self._port
        return changed

    def _configuration(self) -> Json:
        return {
            "apiVersion": "config.kueue.x-k8s.io/v1beta2",
            "kind": "Configuration",
            "namespace": SYSTEM,
            "health": {"healthProbeBindAddress": f"127.0.0.1:{self._health}"},
            "metrics": {"bindAddress": "0"},
            "webhook": {"port": self._port, "certDir": str(self._folder / "certificates")},
            "leaderElection": {"leaderElect": False},
            "internalCertManagement": {
                "enable": True,
                "webhookServiceName": _SERVICE,
                "webhookSecretName": _SECRET,
            },
            "integrations": {"frameworks": ["batch/job"]},
            "featureGates": {"PriorityBoost": True, "VisibilityOnDemand": False},
        }

    def _mount_certificate(self) -> None:
        """Write the Secret's files where Kueue waits for them."""
        found = until(
            lambda: (self._rest.get(f"{_SECRETS}/{_SECRET}") or {}).get("data"), "there is a certificate"
        )
        folder = self._folder / "certificates"
        folder.mkdir(exist_ok=True)
        for name, text in found.items():
            (folder / name).write_bytes(base64.b64decode(text))

    def _works(self) -> bool:
        """Whether its webhooks answer: a flavor can be made."""
        assert self._process
        assert self._process.poll() is None, self.log()
        body = {"metadata": {"name": "default"}, "spec": {}, "apiVersion": "kueue.x-k8s.io/v1beta2"}
        try:
            self._rest("POST", f"{QUEUES}/resourceflavors", body | {"kind": "ResourceFlavor"})
        except Exception as error:  # noqa: BLE001 - refused until the webhook answers; a second start finds it there
            return "already exists" in str(error)
        return True


def _manifests() -> list[Json]:
    module = subprocess.run(
        [str(go()), "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kueue"],
        cwd=family_of("kueue").sources,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    rendered = subprocess.run(
        [str(binary("kubectl")), "kustomize", f"{module}/config/default"],
        capture_output=True,
        check=True,
    ).stdout
    return [body for body in yaml.load_all(rendered, yaml.CSafeLoader) if body]


def make_queue(world: World, name: str, hard: dict[str, str], **spec: Any) -> None:
    """A ClusterQueue with this quota, and its LocalQueue of the same name."""
    resources = [{"name": resource, "nominalQuota": quota} for resource, quota in hard.items()]
    group = {"coveredResources": list(hard), "flavors": [{"name": "default", "resources": resources}]}
    body = {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "ClusterQueue",
        "metadata": {"name": name},
        "spec": {"namespaceSelector": {}, "resourceGroups": [group]} | spec,
    }
    world.rest("POST", f"{QUEUES}/clusterqueues", body)
    local = body | {"kind": "LocalQueue", "spec": {"clusterQueue": name}}
    world.rest("POST", f"{QUEUES}/namespaces/{world.namespace}/localqueues", local)


def workload_of(world: World, name: str) -> Json:
    """The Workload of a FineTuneJob's newest Job."""

    def found() -> Json | None:
        uids = {child["metadata"]["uid"] for child in world.children(name)}
        return next(
            (
                one
                for one in world.rest.items(world.at(WORKLOADS))
                if any(owner["uid"] in uids for owner in one["metadata"].get("ownerReferences", []))
            ),
            None,
        )

    return until(found, f"{name} has a Workload")


def boost(world: World, name: str) -> str | None:
    """By how much the priority of its Workload is raised."""
    annotations: Json = workload_of(world, name)["metadata"].get("annotations", {})
    return annotations.get("kueue.x-k8s.io/priority-boost")


@contextmanager
def scheduler(server: ApiServer, folder: Path) -> Iterator[None]:
    """kube-scheduler, for as long as the block lasts."""
    flags = (f"--kubeconfig={server.kubeconfig}", "--leader-elect=false", "--secure-port=0")
    with (folder / "scheduler.log").open("wb") as log:
        process = subprocess.Popen([str(binary("kube-scheduler")), *flags], stdout=log, stderr=log)
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def node(rest: Rest, name: str, **fields: Any) -> Iterator[None]:
    """A node without a kubelet: a thread renews its lease, so that it stays ready."""
    quantities = {"cpu": "8", "memory": "32Gi", "pods": "50"} | fields.pop("resources", {})
    rest("POST", NODES, {"metadata": {"name": name, "labels": fields.pop("labels", {})}, "spec": fields})
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
    status = {"capacity": quantities, "allocatable": quantities, "conditions": [ready]}
    rest("PATCH", f"{NODES}/{name}/status", {"status": status}, MERGE)
    rest("POST", LEASES, {"metadata": {"name": name}, "spec": {"holderIdentity": name}})
    ended = threading.Event()
    renewing = threading.Thread(target=_renew, args=(rest, name, ended), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join()
        rest("DELETE", f"{NODES}/{name}")
        rest("DELETE", f"{LEASES}/{name}")


def _renew(rest: Rest, name: str, ended: threading.Event) -> None:
    while not ended.wait(5):
        moment = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
        rest("PATCH", f"{LEASES}/{name}", {"spec": {"renewTime": moment}}, MERGE)
