"""Ends the operator at a kind of write, once for each job that asks for it.

A kind of write is what is written and what it says: `POST jobs-a2 of job`, `PUT finetunejobs/status of run: Pending
Starting, 0 attempts ended`. The
name of a job is a prefix, up to the first `-`, of the names of all that belongs to it.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from faults.script import ScriptedProxy
from integration.fault_proxy import FaultProxy

Json = dict[str, Any]

WRITES = "^(POST|PUT|PATCH|DELETE) .*/namespaces/[^/]+/(?!events)"
_OF_A_RUN = re.compile(r"-[0-9a-f]{8}-[tm]\d+(-|$)")
_CHILD = re.compile(r"-[ap]\d+$")
_JOB, _PARENT = "finetune.dev/job-name", "finetune.dev/parent-uid"


@dataclass(frozen=True)
class Point:
    """Right before a kind of write arrives at the API server, or right after it was carried out."""

    kind: str
    after: bool

    def __str__(self) -> str:
        return f"{'after' if self.after else 'before'} {self.kind}"


@dataclass
class Crashes:
    """An answer for a scripted proxy."""

    strike: Callable[[], None]
    kinds: dict[str, list[str]] = field(default_factory=dict)
    """The kinds of writes of each job, in the order in which they came first."""
    armed: dict[str, Point] = field(default_factory=dict)
    """By the job's name; a point that was struck is removed."""

    async def answer(self, proxy: ScriptedProxy, request: web.Request) -> web.StreamResponse:
        """Pass a write on, or strike."""
        job, kind = _understood(request.method, request.path, await request.read())
        seen = self.kinds.setdefault(job, [])
        if kind not in seen:
            seen.append(kind)
        point = self.armed.get(job)
        if point is None or point.kind != kind:
            return await FaultProxy._forward(proxy, request)
        del self.armed[job]
        if point.after:
            await proxy.send(request)
        self.strike()
        raise web.HTTPBadGateway  # nobody reads it any more


def _understood(verb: str, path: str, text: bytes) -> tuple[str, str]:
    """The job, and the kind of a write."""
    resource, *rest = path.partition("/namespaces/")[2].split("/")[1:]
    body: Json = json.loads(text) if text else {}
    meta = body.get("metadata") or {}
    labels = meta.get("labels") or {}
    name = labels.get(_JOB) or (rest[0] if rest else meta["name"])
    job, of_run = name.partition("-")[0], _PARENT in labels or bool(_OF_A_RUN.search(name))
    said = _said(body["status"]) if rest[1:] == ["status"] else ""
    whose = "run" if of_run else "job"
    child = _CHILD.search(rest[0] if rest else meta["name"])
    return job, f"{verb} {'/'.join([resource, *rest[1:]])}{child[0] if child else ''} of {whose}{said}"


def _said(status: Json) -> str:
    running = next((one for one in status.get("conditions", []) if one["type"] == "Running"), {})
    ended = sum(1 for one in status.get("attempts", []) if one.get("endTime"))
    runs = [(status.get("trials") or {}).get(name, 0) for name in ("total", "succeeded")]
    members = [one.get("state") for one in status.get("members") or []]
    of_runs = f", runs {runs} {members}" if any(runs) or members else ""
    return f": {status.get('phase')} {running.get('reason')}, {ended} attempts ended{of_runs}"
