"""Builds the cluster's programs from pinned Go modules, once: cached by the hash of what goes in."""

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from finetune_cluster import debian, folders
from finetune_cluster.commands import run
from finetune_cluster.errors import ClusterError
from finetune_cluster.progress import step
from finetune_cluster.toolchain import go

KUBERNETES_VERSION = "v1.36.3"


@dataclass(frozen=True)
class Family:
    """A Go module and the programs that are built from it (name → import path)."""

    name: str
    programs: Mapping[str, str]
    tags: str = ""
    cgo: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)
    debian_packages: Mapping[str, str] = field(default_factory=dict)
    module: Path | None = None
    """Its folder, if it is not the one of this name under cluster/go; what the build needs may be added to it."""

    @property
    def sources(self) -> Path:
        return self.module or folders.GO_SOURCES / self.name

    @property
    def flags(self) -> list[str]:
        variables = [f"-X {name}={value}" for name, value in self.variables.items()]
        mode = "-mod=mod" if self.module else "-mod=readonly"
        flags = [mode, "-trimpath", "-buildvcs=false", "-ldflags", " ".join(["-s -w", *variables])]
        return [*flags, "-tags", self.tags] if self.tags else flags

    @property
    def key(self) -> str:
        """Short hash of what the build reads: go.mod, go.sum, our own Go files, and the flags."""
        digest = hashlib.sha256(repr((self.flags, self.cgo)).encode())
        for file in sorted(self.sources.glob("*")):
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
        return digest.hexdigest()[:12]

    @property
    def folder(self) -> Path:
        """Of the programs in the cache; a module outside of the tree is named by its version."""
        return folders.cache() / "bin" / (self.name if self.module else f"{self.name}-{self.key}")


def _version_variables(version: str) -> dict[str, str]:
    package = "k8s.io/component-base/version"
    _, minor, *_ = version.split(".")
    return {
        f"{package}.gitVersion": version,
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
    "kubeadm",
)
_CONTAINERD = ("containerd", "containerd-shim-runc-v2", "ctr")
_CNI = {"bridge": "main", "loopback": "main", "host-local": "ipam", "portmap": "meta"}

FAMILIES = (
    Family(
        "kubernetes",
        {program: f"k8s.io/kubernetes/cmd/{program}" for program in _KUBERNETES},
        variables=_version_variables(KUBERNETES_VERSION),
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
    Family(
        "helm3",
        {"helm3": "helm.sh/helm/v3/cmd/helm"},
        variables={  # else it renders for Kubernetes 1.20
            f"helm.sh/helm/v3/pkg/{package}.k8sVersion{part}": number
            for package in ("chartutil", "lint/rules")
            for part, number in (("Major", "1"), ("Minor", KUBERNETES_VERSION.split(".")[1]))
        },
    ),
    Family("crds", {"controller-gen": "sigs.k8s.io/controller-tools/cmd/controller-gen"}),
    Family("kstatus", {"kstatus": "."}),
    Family("kubeconform", {"kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform"}),
    Family("kind", {"kind": "sigs.k8s.io/kind"}),
    Family("kueue", {"kueue": "sigs.k8s.io/kueue/cmd/kueue"}),
    Family("syft", {"syft": "github.com/anchore/syft/cmd/syft"}),
    Family("kwok", {"kwok": "sigs.k8s.io/kwok/cmd/kwok"}),
    Family(
        "training-operator",
        {"training-operator.v1": "github.com/kubeflow/training-operator/cmd/training-operator.v1"},
    ),
    Family("local-path-provisioner", {"local-path-provisioner": "github.com/rancher/local-path-provisioner"}),
)


def family_of(program: str) -> Family:
    return next(family for family in FAMILIES if program in family.programs)


def in_cache(program: str) -> bool:
    """Whether the program is built."""
    return (family_of(program).folder / program).exists()


def binary(program: str, family: Family | None = None) -> Path:
    """The path of a program, built now if it is not in the cache."""
    family = family or family_of(program)
    path = family.folder / program
    if not path.exists():
        with _one_builder(family):
            if not path.exists():  # another process may have built it while we waited
                _build(family, program, path)
    return path


def kubernetes(version: str) -> Family:
    """The programs of Kubernetes in a version: the pinned one, or one whose module is made in the cache."""
    pinned = FAMILIES[0]
    if version == KUBERNETES_VERSION:
        return pinned
    module = folders.cache() / "go-modules" / f"kubernetes-{version}"
    if not (module / "go.mod").exists():
        _make_kubernetes_module(version, module)
    return Family(
        f"kubernetes-{version}", pinned.programs, variables=_version_variables(version), module=module
    )


def _make_kubernetes_module(version: str, module: Path) -> None:
    """A module that requires k8s.io/kubernetes, with its staging modules in the version that belongs to it."""
    if not re.fullmatch(r"v1\.\d+\.\d+", version):
        raise ClusterError(
            f"VERSION must be a release of Kubernetes like {KUBERNETES_VERSION}, not {version!r}"
        )
    command = [str(go()), "mod", "download", "-json", f"k8s.io/kubernetes@{version}"]
    with tempfile.TemporaryDirectory() as folder, step(f"Downloading Kubernetes {version}"):
        downloaded = json.loads(
            run(command, folder=Path(folder), env={"GOFLAGS": "", "GOTOOLCHAIN": "local"})
        )
    module.mkdir(parents=True, exist_ok=True)
    (module / "go.mod").write_text(kubernetes_module(version, Path(downloaded["GoMod"]).read_text()))


def kubernetes_module(version: str, upstream: str) -> str:
    """The go.mod of such a module, from that of k8s.io/kubernetes itself (pure)."""
    staging = re.findall(r"^\s*(k8s\.io/[\w-]+) => \./staging/", upstream, re.MULTILINE)
    go_version = re.findall(r"^go (\S+)", upstream, re.MULTILINE)[0]
    behaviour = ".".join(go_version.split(".")[:2])
    replaced = [f"replace {name} => {name} v0{version.removeprefix('v1')}" for name in staging]
    lines = [
        "module finetune.cluster/kubernetes",
        f"go {go_version}",
        f"godebug default=go{behaviour}",
        f"require k8s.io/kubernetes {version}",
        *replaced,
    ]
    return "\n".join(lines) + "\n"


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
        run(_gently(command), folder=family.sources, env=environment)
        output.rename(path)


def _gently(command: list[str]) -> list[str]:
    return ["nice", *command] if shutil.which("nice") else command


@contextmanager
def _one_builder(family: Family) -> Iterator[None]:
    family.folder.mkdir(parents=True, exist_ok=True)
    with (family.folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
