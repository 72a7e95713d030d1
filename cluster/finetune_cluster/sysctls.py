"""The kubelet changes a few kernel settings of the host; they are restored when the cluster stops."""

import contextlib
import json
from pathlib import Path

_CHANGED_BY_KUBELET = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
_ROOT = Path("/proc/sys")


def save(file: Path) -> None:
    values = {name: (_ROOT / name).read_text() for name in _CHANGED_BY_KUBELET if (_ROOT / name).exists()}
    file.write_text(json.dumps(values))


def restore(file: Path) -> None:
    if not file.exists():
        return
    with contextlib.suppress(ValueError):
        for name, value in json.loads(file.read_text()).items():
            if (_ROOT / name).read_text() != value:
                (_ROOT / name).write_text(value)
