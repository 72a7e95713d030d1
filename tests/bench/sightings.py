"""Watches of a client, which say when something was first seen, and what a process uses."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import urllib3

from finetune_cluster.apiserver import ApiServer

Seen = Callable[[dict[str, Any], float], None]


def watch(server: ApiServer, path: str, seen: Seen) -> None:
    """Call `seen` from a thread with each object that a watch shows, and the time (perf_counter) at which it came."""
    threading.Thread(target=_watch, args=(server, path, seen), daemon=True).start()


def _watch(server: ApiServer, path: str, seen: Seen) -> None:
    pool = urllib3.PoolManager(ca_certs=str(server.ca))
    headers = {"Authorization": f"Bearer {server.token}"}
    url = f"{server.url}{path}?watch=1"
    with suppress(urllib3.exceptions.HTTPError):  # the server ends before we do
        while True:  # it cuts off a client that reads too slowly; the next watch begins with all objects
            _read(pool.request("GET", url, headers=headers, preload_content=False, timeout=None), seen)


def _read(stream: urllib3.BaseHTTPResponse, seen: Seen) -> None:
    rest = b""
    while part := stream.read1():
        now = time.perf_counter()
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            seen(json.loads(line)["object"], now)


def megabytes(process: "subprocess.Popen[bytes]", what: str = "VmRSS") -> float:
    """Resident memory in MiB: VmRSS now, VmHWM at most."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith(what)).split()[1]) / 1024


def cpu_seconds(process: "subprocess.Popen[bytes]") -> float:
    """User and system time so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def percentile(times: list[float], share: float) -> float:
    """The value that this share of the times does not exceed."""
    return sorted(times)[min(len(times) - 1, round(share * len(times)))]


def cpu_of_programs() -> dict[str, float]:
    """CPU seconds so far of this process and of all that it started, by the name of the program."""
    parents, used = dict[int, int](), dict[int, tuple[str, float]]()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            name, fields = _stat(stat.read_text())
            parents[int(stat.parent.name)] = int(fields[1])
            used[int(stat.parent.name)] = name, (int(fields[11]) + int(fields[12])) / 100
    found: dict[str, float] = {}
    for process, (name, seconds) in used.items():
        if _descends(process, os.getpid(), parents):
            found[name] = found.get(name, 0) + seconds
    return found


def _descends(process: int, ancestor: int, parents: dict[int, int]) -> bool:
    while process and process != ancestor:
        process = parents.get(process, 0)
    return process == ancestor


def _stat(line: str) -> tuple[str, list[str]]:
    """Name of the program, and the fields from its state on."""
    start, _, end = line.rpartition(")")
    return start.partition("(")[2], end.split()
