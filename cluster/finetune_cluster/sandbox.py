"""Where the node cluster runs: a network namespace with a cable to the host, and a mount namespace.

Its interfaces, routes and iptables rules go with the network namespace, its mounts with the last process in
the mount namespace, which a holder process keeps open. The host is left as it was.
"""

import contextlib
import os
import shlex
import shutil
import subprocess
from pathlib import Path

from finetune_cluster import cgroups
from finetune_cluster.commands import run, succeeds
from finetune_cluster.readiness import wait_until

NAME = "finetune"
HOST_LINK = "finetune0"
HOST_ADDRESS = "172.31.250.1"
NODE_ADDRESS = "172.31.250.2"
POD_RANGE = "10.244.0.0/24"
POD_GATEWAY = "10.244.0.1"
BRIDGE = "cni0"

_NETWORK = Path("/run/netns") / NAME
# Fixed paths of the kubelet and containerd: our folders cover the host's, inside the mount namespace only.
_COVERED = {
    Path("/var/lib/kubelet"): "kubelet",
    Path("/run/containerd"): "run/containerd",
    Path("/var/log/pods"): "logs/pods",
    Path("/var/log/containers"): "run/container-logs",
}
_ENTER = 'for file in $GROUPS_TO_JOIN; do echo $$ > "$file"; done; echo $$ > "$PID_FILE"; exec "$@"'


class Sandbox:
    """The namespaces of the cluster whose state is in one folder."""

    def __init__(self, state: Path, service_range: str) -> None:
        self._state = state
        self._service_range = service_range

    def create(self) -> None:
        """Make both namespaces and the cgroup; there must be nothing left of an earlier sandbox."""
        cgroups.create()
        self._create_network()
        for covered, ours in _COVERED.items():
            (self._state / ours).mkdir(parents=True, exist_ok=True)
            covered.mkdir(parents=True, exist_ok=True)
        ready = self._state / "run" / "sandbox-ready"
        mounts = [
            f"mount --bind {shlex.quote(str(self._state / ours))} {covered}"
            for covered, ours in _COVERED.items()
        ]
        steps = ["mount --make-rshared /", *mounts, f"touch {shlex.quote(str(ready))}", "exec sleep infinity"]
        unshare = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", " && ".join(steps)]
        self._spawn(
            [f"--net={_NETWORK}"],
            unshare,
            self._pid_file("sandbox"),
            self._state / "logs" / "sandbox.log",
            {},
        )
        wait_until(ready.exists, "The sandbox", seconds=10)

    def whole(self) -> bool:
        return self.holder() is not None and succeeds(["ip", "link", "show", HOST_LINK])

    def holder(self) -> int | None:
        """The process that keeps the mount namespace."""
        return self.pid_of("sandbox")

    def start(self, name: str, command: list[str], env: dict[str, str]) -> None:
        """Start a daemon inside, in its own session; it writes run/NAME.pid before it becomes the program."""
        into = [f"--net={_NETWORK}", f"--mount=/proc/{self.holder()}/ns/mnt"]
        pid_file = self._pid_file(name)
        pid_file.unlink(missing_ok=True)
        self._spawn(into, command, pid_file, self._state / "logs" / f"{name}.log", env)
        wait_until(lambda: _nonempty(pid_file), name, seconds=10)

    def run(self, command: list[str]) -> str:
        """Run a tool inside to its end."""
        into = [f"--net={_NETWORK}", f"--mount=/proc/{self.holder()}/ns/mnt"]
        return run(["nsenter", *into, "--", *command])

    def pid_of(self, name: str) -> int | None:
        """The pid of a daemon that `start` started."""
        return self._pid_in(self._pid_file(name))

    def _pid_in(self, pid_file: Path) -> int | None:
        """The pid in a pid file, if that process lives and is one of ours (pids are used again)."""
        try:
            pid = int(pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return None
        return pid if alive(pid) and _network_of(pid) == _inode(_NETWORK) else None

    def pids(self) -> set[int]:
        """Every process of the cluster: those in its cgroup and those in its network namespace."""
        network = _inode(_NETWORK)
        inside = {
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and network is not None and _network_of(int(entry.name)) == network
        }
        return {pid for pid in cgroups.pids() | inside if pid != os.getpid() and alive(pid)}

    def traces(self) -> bool:
        """Whether anything of a sandbox is there."""
        return _NETWORK.exists() or cgroups.exist() or succeeds(["ip", "link", "show", HOST_LINK])

    def remove(self) -> None:
        """Remove what `create` made; the processes must be gone. Mounts and rules have gone with them."""
        if succeeds(["ip", "link", "show", HOST_LINK]):
            run(["ip", "link", "delete", HOST_LINK])
        if _NETWORK.exists():
            run(["ip", "netns", "delete", NAME])
        _leave_no_empty_folder_of_namespaces()
        cgroups.remove()
        for covered in _COVERED:
            with contextlib.suppress(OSError):
                covered.rmdir()  # only if it is empty: the host may have its own kubelet or containerd

    def _pid_file(self, name: str) -> Path:
        return self._state / "run" / f"{name}.pid"

    def _create_network(self) -> None:
        inside = ["ip", "-n", NAME]
        for command in (
            ["ip", "netns", "add", NAME],
            ["ip", "link", "add", HOST_LINK, "type", "veth", "peer", "name", "eth0", "netns", NAME],
            ["ip", "address", "add", f"{HOST_ADDRESS}/30", "dev", HOST_LINK],
            ["ip", "link", "set", HOST_LINK, "up"],
            [*inside, "link", "set", "lo", "up"],
            [*inside, "address", "add", f"{NODE_ADDRESS}/30", "dev", "eth0"],
            [*inside, "link", "set", "eth0", "up"],
            [*inside, "route", "add", "default", "via", HOST_ADDRESS],
            [*inside, "link", "add", BRIDGE, "type", "bridge"],
            [*inside, "address", "add", f"{POD_GATEWAY}/24", "dev", BRIDGE],
            [*inside, "link", "set", BRIDGE, "up"],
            ["nsenter", f"--net={_NETWORK}", "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"],
            # From the host to pods and Services; these routes go with the link.
            ["ip", "route", "add", POD_RANGE, "via", NODE_ADDRESS],
            ["ip", "route", "add", self._service_range, "via", NODE_ADDRESS],
        ):
            run(command)

    def _spawn(
        self, into: list[str], command: list[str], pid_file: Path, log: Path, env: dict[str, str]
    ) -> None:
        groups = " ".join(str(file) for file in cgroups.files_for_daemons())
        log.parent.mkdir(parents=True, exist_ok=True)
        pid_file.parent.mkdir(parents=True, exist_ok=True)
        environment = {
            "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin",
            "HOME": str(Path.home()),
            **env,
            "GROUPS_TO_JOIN": groups,
            "PID_FILE": str(pid_file),
        }
        setsid = shutil.which("setsid") or "setsid"
        with log.open("ab") as output:
            subprocess.run(
                [setsid, "--fork", "nsenter", *into, "--", "sh", "-c", _ENTER, "sh", *command],
                check=True,
                cwd="/",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )


def _leave_no_empty_folder_of_namespaces() -> None:
    """`ip netns add` mounts /run/netns on itself, and nothing ever unmounts it."""
    folder = _NETWORK.parent
    if folder.exists() and not any(folder.iterdir()):
        while str(folder) in _mount_points():
            run(["umount", folder])
        folder.rmdir()


def _mount_points() -> list[str]:
    return [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except OSError:
        return False


def _network_of(pid: int) -> int | None:
    return _inode(Path(f"/proc/{pid}/ns/net"))


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


def _nonempty(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0
