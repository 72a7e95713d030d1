"""A cluster in memory, with the operator's client: objects and their versions, the Job controller, the garbage
collector, a kubelet; requests may be refused, lose their answer, or be the last that the operator sends.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from aiohttp import ServerDisconnectedError

from finetune_operator.errors import AlreadyExistsError, ApiError, ConflictError, NotFoundError
from invariants import History
from unit.operator.worlds import T0

Body = dict[str, Any]
Where = tuple[str, str]
"""Kind and name."""
WATCHED = ("FineTuneJob", "Job", "Pod")
NAMESPACE = "default"


class Killed(BaseException):
    """The operator's process is gone."""


@dataclass
class Fault:
    """What happens at a write from now on, by its number: a code, `lost` (answer), or SIGKILL `before` or `after`."""

    number: int
    what: int | str


@dataclass
class Watch:
    """What a watch of each kind has yet to deliver."""

    waiting: dict[str, list[tuple[str, Body]]] = field(default_factory=lambda: {kind: [] for kind in WATCHED})


class ModelCluster:
    """Stored bodies are never changed in place, so that whoever holds one holds a version."""

    def __init__(self) -> None:
        self.objects: dict[Where, Body] = {}
        self.history, self.watch = History(), Watch()
        self.checked = True
        self.now = 0.0
        self.revision = 0
        self.born = 0
        self.made_pods: set[str] = set()
        self.fault: Fault | None = None
        self.dead = False
        self.writes: list[str] = []

    @property
    def time(self) -> datetime:
        return T0 + timedelta(seconds=self.now)

    @property
    def text(self) -> str:
        return self.time.strftime("%Y-%m-%dT%H:%M:%SZ")

    def of(self, kind: str) -> list[Body]:
        return [body for (found, _), body in self.objects.items() if found == kind]

    # the API server

    def _store(self, kind: str, body: Body, event: str) -> Body:
        self.revision += 1
        body = body | {"metadata": body["metadata"] | {"resourceVersion": str(self.revision)}}
        where = (kind, body["metadata"]["name"])
        if event == "DELETED":
            del self.objects[where]
        else:
            self.objects[where] = body
        if kind in WATCHED:
            self.watch.waiting[kind].append((event, body))
            if self.checked:
                self.history.see(kind, event, body)
        return body

    def put(self, kind: str, body: Body) -> Body:
        """Create an object with the metadata that an API server adds."""
        self.born += 1
        added = {"namespace": NAMESPACE, "uid": f"{self.born:08}-uid", "generation": 1}
        meta = body["metadata"] | added | {"creationTimestamp": self.text}
        body = body | {"metadata": meta}
        if kind == "PersistentVolumeClaim":
            body |= {"status": {"phase": "Bound", "accessModes": ["ReadWriteOnce"]}}
        return self._store(kind, body, "ADDED")

    def change(self, kind: str, name: str, /, **parts: Any) -> Body:
        """Replace parts of an object."""
        return self._store(kind, self.objects[kind, name] | parts, "MODIFIED")

    def mark(self, kind: str, name: str, **metadata: Any) -> None:
        """Replace parts of its metadata."""
        self.change(kind, name, metadata=self.objects[kind, name]["metadata"] | metadata)

    def remove(self, kind: str, name: str) -> None:
        """It is gone."""
        self._store(kind, self.objects[kind, name], "DELETED")

    def change_spec(self, name: str, **spec: Any) -> None:
        """A user changes a FineTuneJob."""
        body = self.objects["FineTuneJob", name]
        meta = body["metadata"] | {"generation": body["metadata"]["generation"] + 1}
        self.change("FineTuneJob", name, spec=body["spec"] | spec, metadata=meta)

    # the operator's client

    async def get(self, kind: str, namespace: str, name: str) -> Body | None:
        self._alive()
        return self.objects.get((kind, name))

    async def read(self, kind: str, namespace: str, name: str) -> Body:
        return self._found("GET", kind, name)

    async def list_all(self, kind: str, namespace: str | None, selector: str = "") -> list[Body]:
        return [body async for page in self.pages(kind, namespace, selector) for body in page]

    async def pages(
        self, kind: str, namespace: str | None, selector: str = "", fields: str = ""
    ) -> AsyncIterator[list[Body]]:
        self._alive()
        yield [body for body in self.of(kind) if _selected(body, selector)]

    async def version(self, kind: str, namespace: str | None, selector: str = "") -> int:
        return self.revision

    async def serves_finetunejobs(self) -> bool:
        return True

    async def create(self, kind: str, body: Body) -> Body:
        name = body["metadata"].get("name") or f"{body['metadata']['generateName']}{self.born}"

        def make() -> Body:
            if (kind, name) in self.objects:
                raise AlreadyExistsError("POST", name, 409, "already exists")
            return self.put(kind, body | {"metadata": body["metadata"] | {"name": name}})

        return await self._write("POST", kind, name, make)

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        def remove() -> Body:
            found = self.objects.get((kind, name))
            if found is None or found["metadata"]["uid"] != uid:
                return {}
            if kind == "Job":
                self._delete_gracefully(kind, found)
            else:
                self.remove(kind, name)
            return {}

        await self._write("DELETE", kind, name, remove)

    async def write_status(self, namespace: str, name: str, version: str, status: Body) -> Body:
        def write() -> Body:
            self._at("FineTuneJob", name, version)
            return self.change("FineTuneJob", name, status=status)

        return await self._write("PUT", "FineTuneJob", name, write)

    async def patch_spec(
        self, kind: str, namespace: str, name: str, uid: str, version: str, spec: Body
    ) -> Body:
        def patch() -> Body:
            if self._at(kind, name, version)["metadata"]["uid"] != uid:
                raise ConflictError("PATCH", name, 409, "another uid")
            self.change_spec(name, **spec)
            return self.objects[kind, name]

        return await self._write("PATCH", kind, name, patch)

    def _at(self, kind: str, name: str, version: str) -> Body:
        found = self._found("PUT", kind, name)
        if found["metadata"]["resourceVersion"] != version:
            raise ConflictError("PUT", name, 409, "the object has been modified")
        return found

    def _found(self, verb: str, kind: str, name: str) -> Body:
        self._alive()
        if (kind, name) not in self.objects:
            raise NotFoundError(verb, name, 404, f"{name} not found")
        return self.objects[kind, name]

    def _alive(self) -> None:
        if self.dead:
            raise Killed

    async def _write(self, verb: str, kind: str, name: str, apply: Any) -> Any:
        self._alive()
        if kind == "Event":
            return apply()
        what: int | str | None = None
        if self.fault:
            self.fault.number -= 1
            if self.fault.number == 0:
                what, self.fault = self.fault.what, None
        if isinstance(what, int):
            raise _refusal(verb, name, what)
        self.dead = what in ("before", "after")
        if what == "before":
            raise Killed
        answer = apply()
        self.writes.append(f"{verb} {kind} {name}")
        if what == "after":
            raise Killed
        if what == "lost":
            raise ServerDisconnectedError
        return answer

    # controllers and kubelet

    def _delete_gracefully(self, kind: str, body: Body) -> None:
        if "deletionTimestamp" not in body["metadata"]:
            self.mark(kind, body["metadata"]["name"], deletionTimestamp=self.text)

    def user_deletes(self, kind: str, name: str) -> None:
        """In the background, as kubectl does; a pod has its grace period."""
        if kind == "Pod":
            self._delete_gracefully(kind, self.objects[kind, name])
        else:
            self.remove(kind, name)

    def controllers(self) -> None:
        """One step of the garbage collector and the Job controller."""
        for body in list(self.objects.values()):
            owners = body["metadata"].get("ownerReferences") or []
            uids = {one["metadata"]["uid"] for one in self.objects.values()}
            kind = next(found for (found, _), one in self.objects.items() if one is body)
            if owners and not any(owner["uid"] in uids for owner in owners):
                self.user_deletes(kind, body["metadata"]["name"])
        for job in self.of("Job"):
            self._control(job)

    def pods_of(self, job: Body) -> list[Body]:
        uid = job["metadata"]["uid"]
        return [pod for pod in self.of("Pod") if pod["metadata"]["ownerReferences"][0]["uid"] == uid]

    def _control(self, job: Body) -> None:
        name, uid, pods = job["metadata"]["name"], job["metadata"]["uid"], self.pods_of(job)
        if "deletionTimestamp" in job["metadata"]:
            for pod in pods:
                self._delete_gracefully("Pod", pod)
            if not pods:
                self.remove("Job", name)
            return
        if job.get("status"):
            return
        phases = {(pod.get("status") or {}).get("phase") for pod in pods}
        if not pods and uid not in self.made_pods:
            self.made_pods.add(uid)
            owner = {"kind": "Job", "name": name, "uid": uid, "controller": True}
            meta = {"name": f"{name}-{self.born}", "labels": job["metadata"]["labels"]}
            self.put("Pod", {"metadata": meta | {"ownerReferences": [owner]}, "status": {"phase": "Pending"}})
        elif "Succeeded" in phases or "Failed" in phases or not pods:
            ended = "Complete" if "Succeeded" in phases else "Failed"
            self.change("Job", name, status={"conditions": [{"type": ended, "status": "True"}]})

    def start_pods(self) -> None:
        """Bind those that wait to a node and start their containers; let go of those that were deleted."""
        for pod in self.of("Pod"):
            name, phase = pod["metadata"]["name"], pod["status"].get("phase")
            deleting = "deletionTimestamp" in pod["metadata"]
            if deleting and phase == "Running":
                self.end_pod(pod, 75)
            elif deleting:
                self.remove("Pod", name)
            elif phase == "Pending":
                self._pod_status(pod, "Running", {"running": {"startedAt": self.text}})

    def end_pod(self, pod: Body, code: int, message: str = "", disrupted: str | None = None) -> None:
        """Its container ends."""
        running = pod["status"]["containerStatuses"][0]["state"].get("running") or {"startedAt": self.text}
        end = {"exitCode": code, "message": message, "reason": "Error", "finishedAt": self.text} | running
        self._pod_status(pod, "Failed" if code else "Succeeded", {"terminated": end}, disrupted)

    def _pod_status(self, pod: Body, phase: str, state: Body, disrupted: str | None = None) -> None:
        status: Body = {"phase": phase, "containerStatuses": [{"name": "trainer", "state": state}]}
        if disrupted:
            status["conditions"] = [{"type": "DisruptionTarget", "status": "True", "reason": disrupted}]
        spec = (pod.get("spec") or {}) | {"nodeName": "node-1"}
        self.change("Pod", pod["metadata"]["name"], status=status, spec=spec)


def _selected(body: Body, selector: str) -> bool:
    labels = body["metadata"].get("labels") or {}
    wanted = [one.partition("=") for one in selector.split(",") if one]
    return all(name in labels and (not is_given or labels[name] == value) for name, is_given, value in wanted)


def _refusal(verb: str, name: str, code: int) -> ApiError:
    if code == 409:
        return (AlreadyExistsError if verb == "POST" else ConflictError)(verb, name, code, "injected")
    return ApiError(verb, name, code, "injected")
