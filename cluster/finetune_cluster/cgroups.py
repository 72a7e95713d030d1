"""The cluster's own cgroup, /finetune: all daemons and pods are in it, so that none is missed at the end.

On cgroup v1 there is one such folder per hierarchy, on v2 there is one in all.
"""

import contextlib
import os
import time
from pathlib import Path

NAME = "finetune"
_WANTED_V2 = ("cpuset", "cpu", "io", "memory", "hugetlb", "pids")


def hierarchies() -> list[Path]:
    """Mount points of all cgroup file systems, the unified one of hybrid machines among them."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [Path(fields[1]) for fields in mounts if fields[2] in ("cgroup", "cgroup2")]


def create() -> None:
    """Make /finetune everywhere (the kubelet's root) and /finetune/daemons."""
    for hierarchy in hierarchies():
        _enable_controllers(hierarchy)
        ours = hierarchy / NAME
        ours.mkdir(exist_ok=True)
        _copy_cpuset(hierarchy, ours)
        _enable_controllers(ours)
        daemons = ours / "daemons"
        daemons.mkdir(exist_ok=True)
        _copy_cpuset(ours, daemons)


def files_for_daemons() -> list[Path]:
    """The file that a daemon writes its pid to; one hierarchy is enough to find it again."""
    by_usefulness = sorted(hierarchies(), key=lambda path: "pids" not in path.name)
    return [by_usefulness[0] / NAME / "daemons" / "cgroup.procs"] if by_usefulness else []


def pids(below: str = "") -> set[int]:
    """All processes in /finetune, or in one of its sub-groups."""
    found: set[int] = set()
    for hierarchy in hierarchies():
        for folder, _, _ in os.walk(hierarchy / NAME / below):
            with contextlib.suppress(OSError):
                found.update(int(pid) for pid in Path(folder, "cgroup.procs").read_text().split())
    return found - {0}


def remove() -> None:
    """Remove the groups, once their processes are gone; the kernel needs a moment after that."""
    for hierarchy in hierarchies():
        for folder, _, _ in os.walk(hierarchy / NAME, topdown=False):
            _remove_folder(Path(folder))


def exist() -> bool:
    return any((hierarchy / NAME).exists() for hierarchy in hierarchies())


def _remove_folder(folder: Path) -> None:
    for _ in range(50):
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.05)
        else:
            return


def _enable_controllers(folder: Path) -> None:
    """On v2 a group's children have only the controllers that it hands down."""
    available = folder / "cgroup.controllers"
    if not available.exists():
        return
    for controller in set(available.read_text().split()) & set(_WANTED_V2):
        with contextlib.suppress(OSError):
            (folder / "cgroup.subtree_control").write_text(f"+{controller}")


def _copy_cpuset(parent: Path, child: Path) -> None:
    """On v1 a new cpuset is empty, and no process may enter it."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        file = child / name
        if file.exists() and not (parent / "cgroup.controllers").exists() and not file.read_text().strip():
            file.write_text((parent / name).read_text())
