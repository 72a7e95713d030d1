"""Watches a namespace straight at the API server, beside the operator, and checks what has to hold all the time."""

import json
import threading
import time
from typing import Any

import urllib3

from finetune_cluster.apiserver import ApiServer
from integration.operator_rig import CHILDREN, JOBS, PODS, Refused, Rest
from invariants import History

Json = dict[str, Any]

_PATHS = {"FineTuneJob": JOBS, "Job": CHILDREN, "Pod": PODS}
_AGAIN = 0.2
_SILENT = 5.0


class Observer:
    """One thread for each kind. A broken watch is followed by a LIST and another watch."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self.history = History()
        self._server, self._rest, self._namespace = server, Rest(server), namespace
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._seen: dict[str, dict[str, Json]] = {kind: {} for kind in _PATHS}
        self._threads = [threading.Thread(target=self._follow, args=[kind], daemon=True) for kind in _PATHS]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(_SILENT * 2)

    def check(self) -> None:
        """Raises AssertionError with the newest events if anything was violated."""
        with self._lock:
            self.history.check()

    def versions(self) -> dict[str, str]:
        """The resourceVersion of every FineTuneJob and Job."""
        with self._lock:
            return {
                uid: body["metadata"]["resourceVersion"]
                for kind in ("FineTuneJob", "Job")
                for uid, body in self._seen[kind].items()
            }

    def forget(self) -> None:
        """The API server's data went back in time: what was seen is another history's."""
        with self._lock:
            self.history = History()
            self._seen = {kind: {} for kind in _PATHS}

    def _follow(self, kind: str) -> None:
        while not self._stopped.is_set():
            try:
                self._watch(kind, self._list(kind))
            except (Refused, urllib3.exceptions.HTTPError, ValueError, OSError):
                time.sleep(_AGAIN)

    def _list(self, kind: str) -> str:
        found = self._rest("GET", _PATHS[kind].format(self._namespace))
        living = {one["metadata"]["uid"] for one in found["items"]}
        for uid in [uid for uid in self._seen[kind] if uid not in living]:
            self._see(kind, "DELETED", self._seen[kind][uid])
        for body in found["items"]:
            self._see(kind, "LISTED", body)
        return str(found["metadata"]["resourceVersion"])

    def _watch(self, kind: str, version: str) -> None:
        url = f"{self._server.url}{_PATHS[kind].format(self._namespace)}"
        query = {"watch": "true", "resourceVersion": version}
        headers = {"Authorization": f"Bearer {self._server.token}"}
        with urllib3.PoolManager(ca_certs=str(self._server.ca), retries=False) as pool:
            timeout = urllib3.Timeout(connect=_SILENT, read=_SILENT)
            answer = pool.request(
                "GET", url, fields=query, headers=headers, preload_content=False, timeout=timeout
            )
            rest = b""
            while not self._stopped.is_set() and (part := answer.read1()):
                *lines, rest = (rest + part).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        return
                    self._see(kind, event["type"], event["object"])

    def _see(self, kind: str, event: str, body: Json) -> None:
        with self._lock:
            uid = body["metadata"]["uid"]
            known = self._seen[kind].get(uid)
            if event == "DELETED":
                self._seen[kind].pop(uid, None)
            elif known and known["metadata"]["resourceVersion"] == body["metadata"]["resourceVersion"]:
                return
            else:
                self._seen[kind][uid] = body
            self.history.see(kind, event, body)
