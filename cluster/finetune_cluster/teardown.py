"""Ends a node cluster: pods first, then every process that carries its mark, then files."""

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

from finetune_cluster import cgroups
from finetune_cluster.binaries import binary
from finetune_cluster.errors import ClusterError
from finetune_cluster.sandbox import Sandbox, alive

_KEPT = {"logs"}
_SECONDS_TO_END = 8


def remove_containers(sandbox: Sandbox) -> None:
    """Take the pods out of containerd, whose root outlives the cluster (else the next kubelet does)."""
    kubelet = sandbox.pid_of("kubelet")
    if kubelet is not None:
        _end({kubelet})  # it would start them again
    _end(cgroups.pids("kubepods"))
    if sandbox.holder() is None or sandbox.pid_of("containerd") is None:
        return
    ctr = [str(binary("ctr")), "--namespace=k8s.io"]
    with contextlib.suppress(ClusterError):
        names = sandbox.run([*ctr, "containers", "list", "--quiet"]).split()
        for name in names:
            with contextlib.suppress(ClusterError):
                sandbox.run([*ctr, "tasks", "delete", "--force", name])
        if names:
            sandbox.run([*ctr, "containers", "delete", *names])


def end_processes(sandbox: Sandbox) -> None:
    """Let those end in order whose data outlives the cluster, then kill what is there until nothing is."""
    keepers_of_data = {pid for name in ("containerd", "registry") if (pid := sandbox.pid_of(name))}
    _signal(keepers_of_data, signal.SIGTERM)
    _wait_for_end(keepers_of_data)
    deadline = time.monotonic() + _SECONDS_TO_END
    while left := sandbox.pids():
        _signal(left, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise ClusterError(
                f"Processes {sorted(left)} do not end, even with SIGKILL; see `ps` for the reason"
            )
        time.sleep(0.1)


def remove_state(state: Path) -> None:
    """Delete the state folder but for logs; never through a mount."""
    _unmount_below(state)
    for entry in state.iterdir() if state.exists() else ():
        if entry.name in _KEPT:
            continue
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _end(pids: set[int]) -> None:
    _signal(pids, signal.SIGKILL)
    _wait_for_end(pids)


def _wait_for_end(pids: set[int]) -> None:
    deadline = time.monotonic() + _SECONDS_TO_END
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)


def _signal(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _unmount_below(folder: Path) -> None:
    """There are none, as all mounts are in the sandbox; a person may have made one."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    inside = [mount for mount in mounts if Path(mount).is_relative_to(folder) and Path(mount) != folder]
    if inside:
        raise ClusterError(
            f"Something is mounted inside {folder}; unmount it first: umount {' '.join(inside)}"
        )
