"""What the answers of `docker` say about this machine: is there a Docker that kind can use? (pure)"""

import json
import re
from dataclasses import dataclass
from typing import Any

OLDEST_API = (1, 41)
"""kind starts nodes with --cgroupns=private, which came with Docker 20.10."""
SECONDS = 10
"""Timeout of each question to Docker."""


@dataclass(frozen=True)
class Answer:
    """How a command ended: its exit code (None: it still ran after SECONDS), stdout and stderr."""

    code: int | None
    out: str = ""
    err: str = ""

    @property
    def last_line(self) -> str:
        lines = [line.strip() for line in (self.err or self.out).splitlines() if line.strip()]
        return lines[-1] if lines else f"exit code {self.code}"


@dataclass(frozen=True)
class Engine:
    """The Docker of this machine; `problem` says why kind cannot use it and what to do, "" if it can."""

    problem: str = ""
    cgroup_v1: bool = False
    rootless: bool = False


def engine_of(version: Answer | None, info: Answer | None = None, endpoint: str = "") -> Engine:
    """From the answers to `docker version` and `docker info` as JSON (None: no such program), and its endpoint."""
    if version is None:
        return Engine("Docker is not installed: there is no `docker` on PATH.")
    answer = _json(version.out)
    if _is_podman(answer):
        return Engine(
            "`docker` is Podman here, and only Docker is supported for kind. Install Docker Engine."
        )
    server = answer.get("Server")
    if not server:
        return Engine(_no_answer(version))
    problem = _server_problem(server) or _endpoint_problem(endpoint)
    if problem or info is None:
        return Engine(problem)
    return _engine_of_info(info)


def pull_problem(image: str, pull: Answer) -> str:
    """Why an image cannot be pulled, from a `docker pull` that was watched for SECONDS; "" if it can."""
    if pull.code == 0 or re.search("Pulling from|Pulling fs layer|Downloading|Already exists", pull.out):
        return ""
    if pull.code is None:
        return f"The image {image} is not in Docker, and its registry did not answer within {SECONDS} s."
    return f"The image {image} is not in Docker and cannot be pulled ({pull.last_line.rstrip('.')})."


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _is_podman(version: dict[str, Any]) -> bool:
    """Podman's own command line spells APIVersion; Docker's, connected to Podman, lists it as a component."""
    components = (version.get("Server") or {}).get("Components") or []
    return "APIVersion" in (version.get("Client") or {}) or any(
        "Podman" in component.get("Name", "") for component in components
    )


def _no_answer(version: Answer) -> str:
    if version.code is None:
        return (
            f"Docker did not answer within {SECONDS} s. Restart it, e.g. with: sudo systemctl restart docker."
        )
    if "permission denied" in version.err:
        return (
            "Docker is there, but you may not use it (permission denied on its socket). "
            "Add yourself to its group with `sudo usermod -aG docker $USER` and log in again."
        )
    found = re.search(r"Cannot connect to the Docker daemon at (\S+)\.", version.err)
    if found:
        return f"Docker is not running at {found[1]}. Start it, e.g. with: sudo systemctl start docker."
    return f"Docker does not answer ({version.last_line.rstrip('.')}). Check DOCKER_HOST and `docker context ls`."


def _server_problem(server: dict[str, Any]) -> str:
    shown = server.get("Version", "of unknown version")
    if server.get("Os", "linux") != "linux":
        return (
            f"Docker runs {server['Os']} containers, and kind needs Linux containers. Switch Docker to them."
        )
    numbers = tuple(int(part) for part in re.findall(r"\d+", server.get("ApiVersion", "")))
    if numbers < OLDEST_API:
        return f"Docker {shown} is too old for kind. Install version 20.10 or newer."
    return ""


def _endpoint_problem(endpoint: str) -> str:
    """kind publishes the API server on the loopback address of Docker's machine."""
    scheme, _, rest = endpoint.partition("://")
    if scheme in ("", "unix", "npipe") or re.match(r"(127\.\d+\.\d+\.\d+|localhost|\[::1\])(:|/|$)", rest):
        return ""
    return f"Docker is on another machine ({endpoint}), where a kind cluster could not be reached from here."


def _engine_of_info(info: Answer) -> Engine:
    facts = _json(info.out)
    if info.code != 0 or not facts:
        return Engine(f"`docker info` failed ({info.last_line.rstrip('.')}). Restart Docker.")
    engine = Engine(
        cgroup_v1=facts.get("CgroupVersion") == "1",
        rootless=any("name=rootless" in option for option in facts.get("SecurityOptions") or ()),
    )
    if not engine.rootless:
        return engine
    if engine.cgroup_v1:
        return Engine(
            "Docker is rootless, and kind supports that with cgroup v2 only; this machine has cgroup v1. "
            "Use Docker as root."
        )
    limits = facts.get("CgroupDriver") != "none" and all(
        facts.get(name) for name in ("MemoryLimit", "PidsLimit", "CPUShares")
    )
    if not limits:
        return Engine(
            "Docker is rootless and may not limit memory, CPU and processes, which kind needs. "
            "Delegate the cgroup controllers to your user (systemd's Delegate=yes)."
        )
    return engine
