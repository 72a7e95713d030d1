"""Builds the cluster's programs from pinned Go modules, once: cached by the hash of what goes in."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from finetune_cluster import debian, folders
from finetune_cluster.commands import run
from finetune_cluster.progress import step
from finetune_cluster.toolchain import go

KUBERNETES_VERSION = "v1.36.3"


@dataclass(frozen=True)
class Family:
    """One Go module under cluster/go and the programs that are built from it (name → import path)."""

    name: str
    programs: Mapping[str, str]
    tags: str = ""
    cgo: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)
    debian_packages: Mapping[str, str] = field(default_factory=dict)

    @property
    def flags(self) -> list[str]:
        variables = [f"-X {name}={value}" for name, value in self.variables.items()]
        flags = ["-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", " ".join(["-s -w", *variables])]
        return [*flags, "-tags", self.tags] if self.tags else flags

    @property
    def key(self) -> str:
        """Short hash of what the build reads: go.mod, go.sum, our own Go files, and the flags."""
        digest = hashlib.sha256(repr((self.flags, self.cgo)).encode())
        for file in sorted(folders.GO_SOURCES.joinpath(self.name).glob("*")):
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
        return digest.hexdigest()[:12]

    @property
    def folder(self) -> Path:
        return folders.cache() / "bin" / f"{self.name}-{self.key}"


def _kubernetes_version() -> dict[str, str]:
    package = "k8s.io/component-base/version"
    _, minor, _ = KUBERNETES_VERSION.split(".")
    return {
        f"{package}.gitVersion": KUBERNETES_VERSION,
        f"{package}.gitMajor": "1",
        f"{package}.gitMinor": minor,
        f"{package}.gitTreeState": "clean",
    }


_KUBERNETES = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)
_CONTAINERD = ("containerd", "containerd-shim-runc-v2", "ctr")
_CNI = {"bridge": "main", "loopback": "main", "host-local": "ipam", "portmap": "meta"}

FAMILIES = (
    Family(
        "kubernetes",
        {program: f"k8s.io/kubernetes/cmd/{program}" for program in _KUBERNETES},
        variables=_kubernetes_version(),
    ),
    Family("etcd", {"etcd": "go.etcd.io/etcd/server/v3"}),
    Family(
        "containerd",
        {program: f"github.com/containerd/containerd/v2/cmd/{program}" for program in _CONTAINERD},
        tags="no_btrfs,no_zfs,no_devmapper,no_aufs",
    ),
    Family(
        "runc",
        {"runc": "github.com/opencontainers/runc"},
        tags="seccomp",  # without it every pod fails with "seccomp not supported"
        cgo=True,
        debian_packages=debian.RUNC_BUILD,
    ),
    Family(
        "cni",
        {
            program: f"github.com/containernetworking/plugins/plugins/{kind}/{program}"
            for program, kind in _CNI.items()
        },
    ),
    Family("pause", {"pause": "."}),
    Family("coredns", {"coredns": "."}),
    Family("registry", {"registry": "github.com/distribution/distribution/v3/cmd/registry"}),
    Family("helm", {"helm": "helm.sh/helm/v4/cmd/helm"}),
    Family("kind", {"kind": "sigs.k8s.io/kind"}),
)


def binary(program: str) -> Path:
    """The path of a program, built now if it is not in the cache."""
    family = next(family for family in FAMILIES if program in family.programs)
    path = family.folder / program
    if not path.exists():
        with _one_builder(family):
            if not path.exists():  # another process may have built it while we waited
                _build(family, program, path)
    return path


def _build(family: Family, program: str, path: Path) -> None:
    debian.require(family.debian_packages)
    compiler = go()
    environment = {
        "CGO_ENABLED": str(int(family.cgo)),
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "PATH": f"{compiler.parent}:{os.environ.get('PATH', '')}",
    }
    with step(f"Building {program}"), tempfile.TemporaryDirectory(dir=family.folder) as half:
        output = Path(half) / program
        command = [str(compiler), "build", *family.flags, "-o", str(output), family.programs[program]]
        run(_gently(command), folder=folders.GO_SOURCES / family.name, env=environment)
        output.rename(path)


def _gently(command: list[str]) -> list[str]:
    return ["nice", *command] if shutil.which("nice") else command


@contextmanager
def _one_builder(family: Family) -> Iterator[None]:
    family.folder.mkdir(parents=True, exist_ok=True)
    with (family.folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
