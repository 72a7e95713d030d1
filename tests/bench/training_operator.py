"""Kubeflow's training-operator v1.8.1 and its PyTorchJobs, as the bench of many jobs handles them."""

import os
import shutil
import subprocess
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import urllib3
import yaml

from finetune_cluster import folders
from finetune_cluster.apiserver import ApiServer
from finetune_cluster.binaries import binary
from finetune_cluster.toolchain import go
from integration.operator_rig import CRDS, PODS, TRAINER, Rest, until
from ports import free_port

MODULE = "github.com/kubeflow/training-operator"
CERTIFICATES = Path("/tmp/k8s-webhook-server/serving-certs")
WORKERS = 5
"""Jobs that it reconciles at the same time."""
SECRET = "training-operator-webhook-cert"
WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
_DEFINED = "pytorchjobs.kubeflow.org"

Json = dict[str, Any]


@dataclass
class PyTorchJobs:
    """Its jobs. Their children are pods: it makes no Job."""

    path = "/apis/kubeflow.org/v1/namespaces/{}/pytorchjobs"
    children = PODS
    owner = "training.kubeflow.org/job-name"
    ports: tuple[int, int, int] = field(default_factory=lambda: (free_port(), free_port(), free_port()))

    def prepare(self, rest: Rest) -> None:
        """Its definition, and what its rotation of certificates wants to find."""
        command = [str(go()), "list", "-m", "-f", "{{.Dir}}", MODULE]
        found = subprocess.run(
            command,
            cwd=folders.GO_SOURCES / "training-operator",
            env=os.environ | {"GOTOOLCHAIN": "local"},
            check=True,
            capture_output=True,
            text=True,
        )
        definition = Path(found.stdout.strip()) / "manifests/base/crds/kubeflow.org_pytorchjobs.yaml"
        rest("POST", CRDS, yaml.safe_load(definition.read_text()))
        rest("POST", "/api/v1/namespaces", {"metadata": {"name": "kubeflow"}})
        rest("POST", "/api/v1/namespaces/kubeflow/secrets", {"metadata": {"name": SECRET}})
        webhook = {"metadata": {"name": "validator.training-operator.kubeflow.org"}}
        rest("POST", WEBHOOKS, webhook)
        until(lambda: rest.get(self.path.format("default")), "PyTorchJobs are served")
        self._rest = rest

    def job(self, name: str) -> Json:
        """One worker that ends with its pod."""
        container = {"name": "pytorch", "image": TRAINER, "command": ["true"]}
        worker = {
            "replicas": 1,
            "restartPolicy": "Never",
            "template": {"spec": {"containers": [container]}},
        }
        return {
            "apiVersion": "kubeflow.org/v1",
            "kind": "PyTorchJob",
            "metadata": {"name": name},
            "spec": {"pytorchReplicaSpecs": {"Master": worker}},
        }

    def over(self, body: Json) -> bool:
        """Whether a job has ended."""
        return "completionTime" in (body.get("status") or {})

    @contextmanager
    def operator(self, server: ApiServer, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
        """Its process, ready."""
        metrics, probes, webhooks = self.ports
        command = [
            str(binary("training-operator.v1")),
            f"--kubeconfig={server.kubeconfig}",
            "--enable-scheme=pytorchjob",
            f"--controller-threads={WORKERS}",
            f"--metrics-bind-address=127.0.0.1:{metrics}",
            f"--health-probe-bind-address=127.0.0.1:{probes}",
            f"--webhook-server-port={webhooks}",
        ]
        with (folder / "training-operator.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            self._mount_certificates()
            until(lambda: self._answers(probes, "/readyz"), f"training-operator is ready; see {folder}")
            yield process
        finally:
            process.kill()
            process.wait()
            shutil.rmtree(CERTIFICATES, ignore_errors=True)

    def requests(self) -> dict[str, int]:
        """Requests to the API server by their verb; the ends of its watches are among GET."""
        found: Counter[str] = Counter()
        page = urllib3.request("GET", f"http://127.0.0.1:{self.ports[0]}/metrics", retries=False)
        for line in page.data.decode().splitlines():
            if line.startswith("rest_client_requests_total"):
                found[line.partition('method="')[2].partition('"')[0]] += int(float(line.rpartition(" ")[2]))
        return dict(found)

    def _mount_certificates(self) -> None:
        """Write the Secret's files, as the kubelet does once the operator has filled it."""

        def filled() -> Json | None:
            secret = self._rest.get(f"/api/v1/namespaces/kubeflow/secrets/{SECRET}")
            return (secret or {}).get("data")

        CERTIFICATES.mkdir(parents=True, exist_ok=True)
        for name, value in until(filled, "the operator has filled its Secret").items():
            (CERTIFICATES / name).write_bytes(b64decode(value))

    def _answers(self, port: int, path: str) -> bool:
        with suppress(urllib3.exceptions.HTTPError):
            return urllib3.request("GET", f"http://127.0.0.1:{port}{path}", retries=False).status == 200
        return False
