"""What holds in every history of a cluster, whatever goes wrong: checked by tests that watch one, real or a model.

I1  at most one Job of a FineTuneJob's attempts lives, and pods of one attempt only, but for those on lost nodes
I2  attempts never go down, what has ended stays as it ended, retries stay within their limit
I3  the end of a FineTuneJob is final
I8  a status has at most 32 KiB, and one condition of a type
I9  a model is recorded once, by a FineTuneJob that has succeeded, and no run of a search begins twice
"""

import json
from collections import defaultdict, deque
from typing import Any

Json = dict[str, Any]

_LARGEST_STATUS = 32 * 1024
_REMEMBERED = 60
_ATTEMPT, _OWNER, _RUN = "finetune.dev/attempt", "finetune.dev/job-uid", "finetune.dev/parent-uid"
_RUN_LABELS = ("finetune.dev/trial", "finetune.dev/repeat", "finetune.dev/member")
_FINAL = ("phase", "completionTime", "model")


class History:
    """The newest state of Jobs, pods and FineTuneJobs by uid, what came before, and what should not have."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, Json]] = {"FineTuneJob": {}, "Job": {}, "Pod": {}}
        self._runs: dict[tuple[str, ...], set[str]] = defaultdict(set)
        self._events: deque[str] = deque(maxlen=_REMEMBERED)
        self._lost: set[str] = set()
        """Uids of pods whose node does not answer, and of the Jobs that they keep: nobody knows whether they live."""
        self.violations: list[str] = []

    def see(self, kind: str, event: str, body: Json) -> None:
        """An event of a watch, in the order in which the API server tells them for this kind."""
        uid = body["metadata"]["uid"]
        before = self._known[kind].get(uid)
        self._events.append(_line(kind, event, body))
        if event == "DELETED":
            self._known[kind].pop(uid, None)
            return
        self._known[kind][uid] = body
        if kind == "FineTuneJob":
            self._check_status(before, body)
            self._check_run(body)
        else:
            self._check_alive(_owner(body))

    def lose(self, pod: Json) -> None:
        """Its node does not answer any more."""
        self._lost |= {pod["metadata"]["uid"], _controller(pod)}

    def newest(self, kind: str) -> list[Json]:
        """What exists."""
        return list(self._known[kind].values())

    def check(self) -> None:
        """Raises AssertionError with the newest events if anything was violated."""
        assert not self.violations, "\n".join([*self.violations, "the newest events:", *self._events])

    def _violated(self, number: str, body: Json, text: str) -> None:
        self.violations.append(f"{number}: {body['metadata']['name']}: {text}")

    def _check_alive(self, owner: str | None) -> None:
        if owner is None:
            return
        pods = [one for one in self._known["Pod"].values() if _owner(one) == owner and not _ended(one)]
        pods = [one for one in pods if one["metadata"]["uid"] not in self._lost]
        jobs = [one for one in self._known["Job"].values() if _owner(one) == owner and not _over(one)]
        jobs = [one for one in jobs if one["metadata"]["uid"] not in self._lost]
        if len(jobs) > 1:
            self._violated("I1", jobs[0], f"{len(jobs)} Jobs live: {[_name(one) for one in jobs]}")
        controllers = {_controller(one) for one in pods}
        if len(controllers) > 1:
            self._violated("I1", pods[0], f"pods of {len(controllers)} Jobs live: {[_name(p) for p in pods]}")

    def _check_status(self, before: Json | None, body: Json) -> None:
        old, new, spec = (before or {}).get("status") or {}, body.get("status") or {}, body.get("spec") or {}
        self._check_attempts(old, new, spec, body)
        if old.get("completionTime"):
            for name in _FINAL:
                if old.get(name) != new.get(name):
                    self._violated("I3", body, f"{name} {old.get(name)} became {new.get(name)} after the end")
        if (size := len(json.dumps(new).encode())) > _LARGEST_STATUS:
            self._violated("I8", body, f"the status has {size} bytes")
        types = [one["type"] for one in new.get("conditions") or []]
        if len(types) != len(set(types)):
            self._violated("I8", body, f"conditions {types}")
        if new.get("completionTime") and not _may_end_with(new.get("model"), new["phase"], spec):
            self._violated("I9", body, f"{new['phase']} with the model {new.get('model')}")

    def _check_attempts(self, old: Json, new: Json, spec: Json, body: Json) -> None:
        if (new.get("attempt") or 0) < (old.get("attempt") or 0):
            self._violated("I2", body, f"attempt {old['attempt']} became {new.get('attempt')}")
        limit = (spec.get("retry") or {}).get("limit", 3)
        if (new.get("retries") or 0) > limit:
            self._violated("I2", body, f"{new['retries']} retries, {limit} are allowed")
        closed = {one["number"]: one for one in old.get("attempts") or [] if one.get("endTime")}
        for one in new.get("attempts") or []:
            if closed.get(one["number"], one) != one:
                text = f"attempt {one['number']} ended as {closed[one['number']]}, now {one}"
                self._violated("I2", body, text)

    def _check_run(self, body: Json) -> None:
        labels = body["metadata"].get("labels") or {}
        if _RUN not in labels:
            return
        run = (labels[_RUN], *(labels.get(name, "") for name in _RUN_LABELS))
        self._runs[run].add(body["metadata"]["uid"])
        if len(self._runs[run]) > 1:
            self._violated("I9", body, "this run was created twice")


def _may_end_with(model: Json | None, phase: str, spec: Json) -> bool:
    """A script may have written no model; a search that could not copy its best trial's model still names it."""
    if phase == "Succeeded":
        return model is not None or "command" in spec
    return model is None or "search" in spec


def _owner(body: Json) -> str | None:
    labels = body["metadata"].get("labels") or {}
    return labels.get(_OWNER) if _ATTEMPT in labels else None


def _controller(pod: Json) -> str:
    return str(pod["metadata"]["ownerReferences"][0]["uid"])


def _over(job: Json) -> bool:
    conditions = (job.get("status") or {}).get("conditions") or []
    return any(one["type"] in ("Complete", "Failed") and one["status"] == "True" for one in conditions)


def _ended(pod: Json) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def _name(body: Json) -> str:
    return str(body["metadata"]["name"])


def _line(kind: str, event: str, body: Json) -> str:
    meta, status = body["metadata"], body.get("status") or {}
    said = {
        name: status[name] for name in ("phase", "attempt", "retries", "completionTime") if name in status
    }
    said |= {"over": True} if kind == "Job" and _over(body) else {}
    said |= {"deleting": True} if "deletionTimestamp" in meta else {}
    return f"  {meta['resourceVersion']} {event} {kind} {meta['name']} {meta['uid'][:8]} {said}"
