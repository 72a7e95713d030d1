"""How many threads to compute with: the pod's CPU quota, not the node's cores.

Reads control groups v1 and v2 as described in cgroups(7) and proc(5)."""

import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path, PurePosixPath

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "3000"}
"""How threads of OpenMP wait: they look some thousand times, microseconds in all, then sleep.

Sleeping at once makes a step a seventh slower, because many operations are shorter than a wake-up. Spinning for
the default time (300,000 times) takes CPU time from other work on a busy node, where steps were 3.5 times slower.
"""


def configure(environ: MutableMapping[str, str] = os.environ, processes: int = 1) -> int:
    """Set the libraries' thread counts where the user has not, and return ours: a process' share of the CPUs."""
    count = int(environ.get("OMP_NUM_THREADS") or 0) or max(1, thread_count() // processes)
    for variable in VARIABLES:
        environ.setdefault(variable, str(count))
    if not WAITING.keys() & environ.keys():
        environ.update(WAITING)
    return count


def thread_count(proc: Path = Path("/proc/self")) -> int:
    """Whole CPUs that this process may use: the smaller of affinity mask and quota, at least one."""
    cores = len(os.sched_getaffinity(0))
    quota = cpu_quota(proc)
    return cores if quota is None else max(1, min(cores, int(quota)))


def cpu_quota(proc: Path = Path("/proc/self")) -> float | None:
    """The tightest quota of this process's control groups in CPUs; None without one."""
    quotas = [quota for group in _groups(proc) if (quota := _quota(group)) is not None]
    return min(quotas, default=None)


def _groups(proc: Path) -> Iterator[Path]:
    """Every folder from this process's control groups up to their mount points."""
    try:
        paths = _group_paths((proc / "cgroup").read_text())
        mounts = (proc / "mountinfo").read_text().splitlines()
    except OSError:
        return
    for line in mounts:
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        controller = "" if kind[0] == "cgroup2" else "cpu"
        if controller and controller not in kind[2].split(","):
            continue
        if controller in paths:
            yield from _folders(Path(fields[4]), PurePosixPath(fields[3]), paths[controller])


def _group_paths(text: str) -> dict[str, PurePosixPath]:
    """The group of v2 under the key "", that of v1's cpu controller under "cpu"."""
    paths: dict[str, PurePosixPath] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = PurePosixPath(path)
    return paths


def _folders(mount: Path, root: PurePosixPath, group: PurePosixPath) -> Iterator[Path]:
    inside = group.relative_to(root) if group.is_relative_to(root) else PurePosixPath()
    for level in (inside, *inside.parents):
        yield mount / level


def _quota(folder: Path) -> float | None:
    v2, v1, period = folder / "cpu.max", folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us"
    try:
        limit, per = (
            v2.read_text().split() if v2.exists() else (v1.read_text().strip(), period.read_text().strip())
        )
        return None if limit in ("max", "-1") else int(limit) / int(per)
    except (OSError, ValueError):
        return None
