"""An API server that records every request of the operator's account and what anybody writes of Jobs and pods."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from finetune_cluster.apiserver import ApiServer
from integration.release import ACCOUNT

Json = dict[str, Any]
Right = tuple[str, str, str]

POLICY: Json = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {
            "level": "Request",
            "verbs": ["create", "update", "patch"],
            "resources": [{"group": "batch", "resources": ["jobs"]}, {"group": "", "resources": ["pods"]}],
        },
        {"level": "Metadata", "users": [ACCOUNT]},
        {"level": "None"},
    ],
}


@dataclass(frozen=True)
class Request:
    """A request for an object, a list of them, or a watch."""

    right: Right
    """Group, resource and verb, as RBAC has them."""
    namespace: str
    name: str
    selector: str
    code: int

    @classmethod
    def of(cls, event: Json) -> "Request":
        at = event["objectRef"]
        resource = "/".join(filter(None, (at["resource"], at.get("subresource"))))
        query = parse_qs(urlsplit(event["requestURI"]).query)
        return cls(
            (at.get("apiGroup", ""), resource, event["verb"]),
            at.get("namespace", ""),
            at.get("name", ""),
            query.get("labelSelector", [""])[0],
            event["responseStatus"]["code"],
        )


@dataclass(frozen=True)
class Audit:
    """What the operator's account has asked of an API server."""

    log: Path

    def mark(self) -> int:
        """The position from which a test reads."""
        return self.log.stat().st_size if self.log.exists() else 0

    def requests(self, since: int = 0) -> Iterator[Request]:
        """Those of the operator that name a resource; the others are discovery."""
        for event in self._events(since):
            if event["user"]["username"] == ACCOUNT and "objectRef" in event:
                yield Request.of(event)

    def workloads(self, namespace: str, since: int = 0) -> Iterator[tuple[str, Json]]:
        """The bodies of all Jobs and pods that were to be created or changed, by anybody, each with its kind."""
        for event in self._events(since):
            body, at = event.get("requestObject"), event.get("objectRef", {})
            if body and at.get("namespace") == namespace:
                yield at["resource"], body

    def _events(self, since: int) -> Iterator[Json]:
        with self.log.open("rb") as file:
            file.seek(since)
            yield from map(json.loads, file)


@contextmanager
def audited(folder: Path) -> Iterator[tuple[ApiServer, Audit]]:
    """A server with its controllers. A request is recorded before it is answered."""
    policy, log = folder / "policy.json", folder / "audit.log"
    policy.write_text(json.dumps(POLICY))
    flags = [f"--audit-policy-file={policy}", f"--audit-log-path={log}", "--audit-log-mode=blocking-strict"]
    with ApiServer.start(controllers=True, flags=flags) as server:
        yield server, Audit(log)
