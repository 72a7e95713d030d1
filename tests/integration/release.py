"""A release of the chart on an API server without nodes. The operator runs outside of the cluster, with the token of
the ServiceAccount and the environment of the Deployment that the chart has.
"""

import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chart.rendering import CHART, NAMESPACE, RELEASE
from finetune_cluster.apiserver import ApiServer
from finetune_cluster.binaries import binary
from finetune_cluster.credentials import render_kubeconfig
from ports import free_port

Json = dict[str, Any]

ROOT = CHART.parents[1]
CRD = "customresourcedefinition/finetunejobs.finetune.dev"
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:{RELEASE}"
IMAGE = "trainer.image=127.0.0.1:5000/finetune-trainer:abc"


@dataclass(frozen=True)
class Tools:
    """kubectl and helm for one API server."""

    api: ApiServer
    program: str = "helm"
    """Or helm3."""

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return _run([str(binary("kubectl")), "--kubeconfig", str(self.api.kubeconfig), *arguments], stdin)

    def get(self, *arguments: str) -> Json:
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def names(self, kind: str, namespace: str, selector: str = "") -> list[str]:
        found = self.get(kind, "--namespace", namespace, "--selector", selector)
        return [item["metadata"]["name"] for item in found["items"]]

    def apply(self, *objects: Json) -> None:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.kubectl("apply", "--filename", "-", stdin=text)

    def helm(self, verb: str, *arguments: str) -> str:
        return _run(
            [
                str(binary(self.program)),
                "--kubeconfig",
                str(self.api.kubeconfig),
                "--namespace",
                NAMESPACE,
                verb,
                RELEASE,
                *arguments,
            ]
        )


def _run(command: list[str], stdin: str | None = None) -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{Path(command[0]).name} {' '.join(command[3:])}: {done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Operator:
    """A running operator."""

    http: str
    progress: str
    environment: dict[str, str]
    log: Path
    process: "subprocess.Popen[bytes]"

    def ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return answer_of(f"{self.http}/readyz")[0] == 200
        except OSError:
            return False

    def refusals(self) -> list[str]:
        """Every sign of a missing right: in the log and among the counted answers."""
        log, metrics = self.log.read_text(), answer_of(f"{self.http}/metrics")[1]
        logged = [line for line in log.splitlines() if re.search(r"\b403\b|[Ff]orbidden|permission", line)]
        return logged + [line for line in metrics.splitlines() if 'code="403"' in line]


@contextmanager
def operator(tools: Tools, folder: Path, sources: Path = ROOT) -> Iterator[Operator]:
    """Start the operator as the chart's Deployment would, and wait until it is ready. `sources` may be a version's."""
    deployment = tools.get("deployment", RELEASE, "--namespace", NAMESPACE)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    token = tools.kubectl("create", "token", RELEASE, "--namespace", NAMESPACE).strip()
    kubeconfig, log = folder / "kubeconfig", folder / "operator.log"
    kubeconfig.write_text(render_kubeconfig(tools.api.url, tools.api.ca.read_text(), ACCOUNT, token))
    http, progress = free_port(), free_port()
    environment = (
        dict(os.environ)
        | {one["name"]: one["value"] for one in container["env"] if "value" in one}
        | {
            "FINETUNE_OPERATOR_HTTP_PORT": str(http),
            "FINETUNE_OPERATOR_PROGRESS_PORT": str(progress),
            "FINETUNE_OPERATOR_PROGRESS_URL": f"https://127.0.0.1:{progress}",  # not the Service's
            "KUBECONFIG": str(kubeconfig),
            "PYTHONPATH": f"{sources / 'api'}:{sources / 'core'}:{sources / 'operator'}",
            "PYTHONUNBUFFERED": "1",
        }
    )
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "finetune_operator"],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    running = Operator(f"http://127.0.0.1:{http}", f"https://127.0.0.1:{progress}", environment, log, process)
    try:
        eventually(running.ready, seconds=120)
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def eventually(holds: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s"
        time.sleep(0.2)


def answer_of(
    url: str, headers: dict[str, str] | None = None, tls: ssl.SSLContext | None = None
) -> tuple[int, str]:
    """Status and text of a GET; a POST where headers are given."""
    request = urllib.request.Request(url, headers=headers or {}, data=b"{}" if headers else None)
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls)
    )
    try:
        with opener.open(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
