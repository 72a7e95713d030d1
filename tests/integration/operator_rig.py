"""A cluster without nodes for the operator's tests: a real API server with its controllers, the operator as a real
process, and a simulated kubelet, which sets the status of pods.
"""

import atexit
import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import urllib3

from builders import job as job_of
from finetune_api import GROUP, PLURAL, VERSION
from finetune_api.crd import crd
from finetune_api.run import RunReport
from finetune_api.status import ModelStatus, ProgressStatus
from finetune_cluster.apiserver import ApiServer
from mounted import files_in
from ports import free_port

Json = dict[str, Any]
T = TypeVar("T")

ROOT = Path(__file__).parents[2]
TRAINER = "registry.example/trainer:1"
MERGE = "application/merge-patch+json"
MODEL = ModelStatus(uri="pvc://out/model", digest="sha256:" + "ab" * 32, format="safetensors", files=7)
DONE = RunReport(
    exit_code=0, model=MODEL, progress=ProgressStatus(step=100, total_steps=100, percent=100, loss=0.25)
)
JOBS = f"/apis/{GROUP}/{VERSION}/namespaces/{{}}/{PLURAL}"
CHILDREN = "/apis/batch/v1/namespaces/{}/jobs"
PODS = "/api/v1/namespaces/{}/pods"
CLAIMS = "/api/v1/namespaces/{}/persistentvolumeclaims"
CONFIG_MAPS = "/api/v1/namespaces/{}/configmaps"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
EVENTS = "/api/v1/namespaces/{}/events"

PATIENCE = 60.0
"""Seconds until a wait gives up: no test is about speed, and the machine may be busy."""
_numbers = count(1)


class Refused(Exception):  # noqa: N818
    """A request that the API server refused."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


@dataclass(frozen=True)
class Access:
    """What a client needs to know of an API server that somebody else started."""

    url: str
    token: str
    ca: Path


class Rest:
    """A small client: paths and JSON."""

    def __init__(self, server: ApiServer | Access) -> None:
        self._url = server.url
        # 429: the storage of a definition is made ready anew, also some time after it was served first
        once: dict[str, Any] = dict.fromkeys(("connect", "read", "redirect", "other"), False)
        again = {"status": 10, "status_forcelist": [429], "allowed_methods": None, "raise_on_status": False}
        retries = urllib3.Retry(None, **once, **again)
        self._pool = urllib3.PoolManager(maxsize=32, ca_certs=str(server.ca), retries=retries, timeout=30)
        self._headers = {"Authorization": f"Bearer {server.token}", "Accept": "application/json"}

    def __call__(self, verb: str, path: str, body: Any = None, kind: str = "application/json") -> Json:
        answer = self._pool.request(
            verb,
            self._url + path,
            headers=self._headers | {"Content-Type": kind},
            body=None if body is None else json.dumps(body),
        )
        if answer.status >= 400:
            raise Refused(answer.status, answer.data.decode()[:500])
        found: Json = json.loads(answer.data)
        return found

    def text(self, verb: str, path: str, body: str | None = None) -> str:
        """JSON as text, for objects that Python's parser refuses."""
        headers = self._headers | {"Content-Type": "application/json"}
        answer = self._pool.request(verb, self._url + path, headers=headers, body=body)
        if answer.status >= 400:
            raise Refused(answer.status, answer.data.decode()[:500])
        return answer.data.decode()

    def get(self, path: str) -> Json | None:
        """The object; None if it does not exist yet."""
        try:
            return self("GET", path)
        except Refused as error:
            if error.status == 404:
                return None
            raise

    def items(self, path: str, selector: str = "") -> list[Json]:
        """A LIST."""
        found = self("GET", path + (f"?labelSelector={selector}" if selector else ""))
        return list(found["items"])


def until(
    question: Callable[[], T | None], what: str, seconds: float = PATIENCE, log: "Operator | None" = None
) -> T:
    """Poll until the answer is truthy, and return it."""
    deadline = time.monotonic() + seconds
    while True:
        if answer := question():
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}" + (f"\n{log.log()}" if log else ""))
        time.sleep(0.04)


def install_crd(rest: Rest, definition: Json | None = None) -> None:
    """Create or replace the definition and wait until it is served."""
    wanted = definition or crd()
    name = wanted["metadata"]["name"]
    if stored := rest.get(f"{CRDS}/{name}"):
        version = {"resourceVersion": stored["metadata"]["resourceVersion"]}
        rest("PUT", f"{CRDS}/{name}", wanted | {"metadata": wanted["metadata"] | version})
    else:
        rest("POST", CRDS, wanted)
    until(lambda: rest.get(JOBS.format("default")), "the CRD is served")


@cache
def shared_server() -> ApiServer:
    """One API server with its controllers for all modules of the operator's tests; ended with the session."""
    server = ApiServer.start(controllers=True)
    atexit.register(server.stop)
    install_crd(Rest(server))
    return server


@dataclass
class Operator:
    """The operator's process."""

    kubeconfig: Path
    folder: Path
    settings: dict[str, Any]
    image: Path | None = None
    """The files of the operator's image, to run it as a cluster does; None for this environment."""
    process: "subprocess.Popen[bytes]" = field(init=False)
    port: int = field(init=False)

    def start(self) -> "Operator":
        """Start the process without waiting."""
        self.port = free_port()
        given = {"trainer_image": TRAINER, "http_port": self.port, "progress_port": 0, "preflight": "Skip"}
        given |= self.settings
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "KUBECONFIG": str(self.kubeconfig),
            "PYTHONPATH": f"{ROOT / 'api'}:{ROOT / 'core'}:{ROOT / 'operator'}",
            "PYTHONUNBUFFERED": "1",
        } | {f"FINETUNE_OPERATOR_{name}".upper(): _text(value) for name, value in given.items()}
        command = [sys.executable, "-m", "finetune_operator"]
        if self.image:
            command = [
                "chroot",
                "--userspec=65532:65532",
                str(self.image),
                "/opt/venv/bin/python",
                *command[1:],
            ]
            inside = self.image / "tmp/kubeconfig"
            inside.write_bytes(self.kubeconfig.read_bytes())
            environment |= {"KUBECONFIG": "/tmp/kubeconfig", "HOME": "/tmp", "PYTHONPATH": ""}
        with self._log_file.open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        return self

    def ready(self) -> "Operator":
        """Wait until it is ready."""
        until(lambda: self.answers("/readyz"), "the operator is ready", log=self)
        return self

    def kill(self) -> None:
        """Send SIGKILL."""
        self.process.kill()
        self.process.wait(timeout=PATIENCE)

    def stop(self) -> int:
        """Send SIGTERM; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def log(self, characters: int = 6000) -> str:
        """The end of the log."""
        return self._log_file.read_text(errors="replace")[-characters:]

    def writes(self) -> int:
        """Requests that changed something, as the operator counts them."""
        return sum(count for verb, count in self.requests().items() if verb != "GET")

    def requests(self) -> Counter[str]:
        """Requests to the API server by their verb, as the operator counts them; its watches are Kopf's."""
        found: Counter[str] = Counter()
        for line in self.metrics().splitlines():
            if line.startswith("finetune_operator_api_requests_total"):
                verb = line.partition('verb="')[2].partition('"')[0]
                found[verb] += int(float(line.rpartition(" ")[2]))
        return found

    def metrics(self) -> str:
        """The metrics page."""
        return self._get("/metrics", PATIENCE).data.decode()

    def answers(self, path: str) -> bool:
        """Whether it answers 200; it has to be alive."""
        assert self.alive, f"the operator ended with {self.process.returncode}\n{self.log()}"
        try:
            return self._get(path).status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def _get(self, path: str, seconds: float = 5.0) -> urllib3.BaseHTTPResponse:
        return urllib3.request("GET", f"http://127.0.0.1:{self.port}{path}", retries=False, timeout=seconds)

    @property
    def _log_file(self) -> Path:
        return self.folder / "operator.log"


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (list, dict)) else str(value)


@contextmanager
def running(
    kubeconfig: Path, folder: Path, *, image: Path | None = None, **settings: Any
) -> Iterator[Operator]:
    """An operator that is ready; ended with the block."""
    operator = Operator(kubeconfig, folder, settings, image).start()
    try:
        yield operator.ready()
    finally:
        if operator.alive:
            operator.kill()


@dataclass(frozen=True)
class World:
    """A namespace, its user, and its kubelet."""

    rest: Rest
    namespace: str

    # the user

    def apply(self, name: str | None = None, **spec: Any) -> str:
        """Create a FineTuneJob on the CPU; its name."""
        name = name or f"job-{next(_numbers)}"
        self.rest("POST", self._at(JOBS), job_of(name, **({"resources": {"gpusPerNode": 0}} | spec)))
        return name

    def change(self, name: str, **spec: Any) -> None:
        """Patch the spec."""
        self.rest("PATCH", self._at(JOBS, name), {"spec": spec}, MERGE)

    def job(self, name: str) -> Json:
        """The FineTuneJob."""
        return self.rest("GET", self._at(JOBS, name))

    def status(self, name: str) -> Json:
        """Its status."""
        return dict(self.job(name).get("status") or {})

    def write_status(self, name: str, status: Json | None) -> None:
        """Another client patches the status."""
        self.rest("PATCH", self._at(JOBS, name) + "/status", {"status": status}, MERGE)

    def delete(self, name: str) -> None:
        """kubectl delete --wait=false"""
        self.rest("DELETE", self._at(JOBS, name))

    def condition(self, name: str, kind: str) -> Json:
        """A condition; empty where it is absent."""
        found: list[Json] = self.status(name).get("conditions", [])
        return next((one for one in found if one["type"] == kind), {})

    def reason(self, name: str) -> str:
        """The current reason."""
        return str(self.condition(name, "Running").get("reason"))

    # what exists

    def children(self, name: str) -> list[Json]:
        """The attempts' Jobs."""
        return self.rest.items(self._at(CHILDREN), f"finetune.dev/job-name={name}")

    def pods(self, name: str) -> list[Json]:
        """Their pods."""
        return self.rest.items(self._at(PODS), f"finetune.dev/job-name={name}")

    def config_maps(self, name: str) -> list[Json]:
        """Their ConfigMaps."""
        return self.rest.items(self._at(CONFIG_MAPS), f"finetune.dev/job-name={name}")

    def files(self, name: str) -> list[dict[str, str]]:
        """What the pods of each of its Jobs find as their configuration, in the order of the Jobs' names."""
        jobs = {one["metadata"]["name"]: one for one in self.children(name)}
        maps = {one["metadata"]["name"]: one for one in self.config_maps(name)}
        return [files_in(job["spec"]["template"], maps.get(child)) for child, job in sorted(jobs.items())]

    def claims(self, name: str) -> list[Json]:
        """The output claims."""
        return self.rest.items(self._at(CLAIMS), f"finetune.dev/job-name={name}")

    def events(self, name: str) -> list[Json]:
        """Events on the FineTuneJob, the oldest first."""
        found = [one for one in self.rest.items(self._at(EVENTS)) if one["involvedObject"]["name"] == name]
        return sorted(found, key=lambda one: int(one["metadata"]["resourceVersion"]))

    def make_claim(self, name: str) -> None:
        """Create a claim whose status is Bound."""
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        self.rest("POST", self._at(CLAIMS), {"metadata": {"name": name}, "spec": spec})
        self.rest("PATCH", self._at(CLAIMS, name) + "/status", {"status": {"phase": "Bound"}}, MERGE)

    # waiting

    def until_phase(self, name: str, phase: str, seconds: float = PATIENCE) -> Json:
        """Wait for a phase; returns the status."""

        def reached() -> Json | None:
            status = self.status(name)
            return status if status.get("phase") == phase else None

        try:
            return until(reached, f"{name} is {phase}", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {json.dumps(self.status(name), indent=1)}") from None

    def until_reason(self, name: str, reason: str, seconds: float = PATIENCE) -> Json:
        """Wait for a reason; returns the condition."""
        until(lambda: self.reason(name) == reason, f"{name} says {reason}", seconds)
        return self.condition(name, "Running")

    def pod(self, name: str, attempt: int = 1) -> str:
        """Wait for the attempt's pod; returns its name."""
        selector = f"finetune.dev/job-name={name},finetune.dev/attempt={attempt}"

        def made() -> str | None:
            found = [
                pod
                for pod in self.rest.items(self._at(PODS), selector)
                if "deletionTimestamp" not in pod["metadata"]
            ]
            return found[0]["metadata"]["name"] if found else None

        try:
            return until(made, f"{name} has a pod for attempt {attempt}")
        except AssertionError as error:
            found = [self.status(name), *self.children(name), *self.pods(name)]
            raise AssertionError(f"{error}; {json.dumps(found, indent=1)}") from None

    # the kubelet

    def preflight_pod(self, name: str, number: int = 1) -> str:
        """Wait for the pod of a try of preflight, bind it and start its container; returns its name."""
        selector = f"finetune.dev/job-name={name},finetune.dev/preflight={number}"
        pods = until(lambda: self.rest.items(self._at(PODS), selector), f"{name} has a pod for preflight")
        pod: str = pods[0]["metadata"]["name"]
        self.bind(pod)
        self.start_container(pod)
        return pod

    def run(self, name: str, attempt: int = 1, node: str = "node-1") -> str:
        """Bind the attempt's pod and start its container; returns the pod's name."""
        pod = self.pod(name, attempt)
        self.bind(pod, node)
        self.start_container(pod)
        return pod

    def start_container(self, pod: str) -> None:
        """Start the container."""
        self._pod_status(pod, "Running", {"running": {"startedAt": now()}}, ready=True)

    def bind(self, pod: str, node: str = "node-1") -> None:
        """Bind the pod to a node, as the scheduler does."""
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod}, "target": target}
        self.rest("POST", self._at(PODS, pod) + "/binding", binding)

    def end(self, pod: str, code: int, message: str = "", reason: str = "") -> None:
        """End the container."""
        state = {
            "exitCode": code,
            "reason": reason or ("Error" if code else "Completed"),
            "message": message,
            "startedAt": self._started(pod) or now(),
            "finishedAt": now(),
        }
        self._pod_status(pod, "Failed" if code else "Succeeded", {"terminated": state}, ready=False)

    def _started(self, pod: str) -> str | None:
        """When the pod's container started, which a kubelet repeats at its end."""
        statuses = ((self.get_pod(pod) or {}).get("status") or {}).get("containerStatuses") or [{}]
        started: str | None = statuses[0].get("state", {}).get("running", {}).get("startedAt")
        return started

    def succeed(self, pod: str, report: RunReport = DONE) -> None:
        """End the container with code 0 and a report."""
        self.end(pod, 0, report.model_dump_json(by_alias=True, exclude_none=True))

    def obey(self, pod: str, code: int = 75) -> None:
        """Wait for the pod's deletion, then end its container and remove it."""
        until(
            lambda: "deletionTimestamp" in (self.get_pod(pod) or {"metadata": {}})["metadata"], f"{pod} stops"
        )
        self.end(pod, code)
        self.remove(pod)

    def remove(self, pod: str) -> None:
        """Remove the pod from the API server, as the kubelet does at the end."""
        options = {"gracePeriodSeconds": 0, "apiVersion": "v1", "kind": "DeleteOptions"}
        self.rest("DELETE", self._at(PODS, pod), options)

    def get_pod(self, pod: str) -> Json | None:
        return self.rest.get(self._at(PODS, pod))

    def wait_on(self, pod: str, reason: str, message: str) -> None:
        """Set a waiting reason on the container."""
        self._pod_status(pod, "Pending", {"waiting": {"reason": reason, "message": message}}, ready=False)

    def unschedulable(self, pod: str, message: str) -> None:
        """Mark the pod as unschedulable."""
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        self.rest("PATCH", self._at(PODS, pod) + "/status", {"status": {"conditions": [condition]}}, MERGE)

    def warn(self, pod: str, reason: str, message: str) -> None:
        """Post a warning Event on the pod."""
        about = {"kind": "Pod", "namespace": self.namespace, "name": pod}
        about["uid"] = (self.get_pod(pod) or {})["metadata"]["uid"]
        event = {"metadata": {"generateName": f"{pod}."}, "involvedObject": about, "type": "Warning"}
        event |= {"reason": reason, "message": message, "lastTimestamp": now()}
        self.rest("POST", self._at(EVENTS), event)

    def disrupt(self, pod: str, code: int, reason: str) -> None:
        """Evict or preempt the pod."""
        condition = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": reason,
            "lastTransitionTime": now(),
        }
        self.rest("PATCH", self._at(PODS, pod) + "/status", {"status": {"conditions": [condition]}}, MERGE)
        self.end(pod, code)

    def token(self, pod: str | None, audience: str = "finetune-operator") -> str:
        """A token of the namespace's default ServiceAccount, bound to a pod."""
        spec: Json = {"audiences": [audience], "expirationSeconds": 600}
        if pod is not None:
            uid = (self.get_pod(pod) or {})["metadata"]["uid"]
            spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/default/token"
        return str(self.rest("POST", path, body)["status"]["token"])

    def _pod_status(self, pod: str, phase: str, state: Json, *, ready: bool) -> None:
        container = {
            "name": "trainer",
            "image": TRAINER,
            "imageID": f"{TRAINER}@sha256:{'c' * 64}",
            "ready": ready,
            "restartCount": 0,
            "state": state,
        }
        status = {"phase": phase, "containerStatuses": [container]}
        if phase == "Running":
            status["startTime"] = now()
        self.rest("PATCH", self._at(PODS, pod) + "/status", {"status": status}, MERGE)

    def at(self, path: str, name: str = "") -> str:
        """A path in this namespace."""
        return path.format(self.namespace) + (f"/{name}" if name else "")

    _at = at


def make_namespace(rest: Rest, name: str, *, inputs: bool = True) -> World:
    """Create a namespace with the claim that jobs read, and wait for the ServiceAccount that pods need."""
    rest("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    path = f"/api/v1/namespaces/{name}/serviceaccounts/default"
    until(lambda: rest.get(path), f"the namespace {name} has its ServiceAccount")
    world = World(rest, name)
    if inputs:
        world.make_claim("demo")
    return world


@contextmanager
def serving(server: ApiServer, folder: Path, *namespaces: str, **settings: Any) -> Iterator[Operator]:
    """An operator over new namespaces; at the end it is alive and has logged no traceback."""
    for name in namespaces:
        make_namespace(Rest(server), name)
    with running(server.kubeconfig, folder, namespaces=list(namespaces), **settings) as operator:
        yield operator
        assert operator.alive, operator.log()
        assert "Traceback" not in operator.log(characters=10**7), operator.log()


def now() -> str:
    """Now, as Kubernetes writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def bound_pod_of(token: str) -> str:
    """The pod's name in a token's claims."""
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return str(claims["kubernetes.io"]["pod"]["name"])
