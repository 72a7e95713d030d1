"""Builds a node image for kind without an image registry: Debian by debootstrap, kind's files, our programs."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune_cluster import debian, folders
from finetune_cluster.archives import Image, layer, write_archive
from finetune_cluster.binaries import Family, binary, kubernetes
from finetune_cluster.buildah import slim
from finetune_cluster.commands import run, run_logged
from finetune_cluster.errors import ClusterError
from finetune_cluster.kind import docker, nodefiles, nodeimage
from finetune_cluster.progress import step
from finetune_cluster.readiness import wait_until
from finetune_cluster.toolchain import go

_CONTAINERD_CONFIG = "etc/containerd/config.toml"


def build(version: str) -> str:
    """Build the image for a version of Kubernetes and give it to Docker; returns its name."""
    if os.geteuid() != 0:
        raise ClusterError(
            "A node image is built with debootstrap and chroot, which need root. Run this as root."
        )
    if problem := docker.engine().problem:
        raise ClusterError(problem)
    debian.require({"debootstrap": "debootstrap"})
    programs = _Programs(kubernetes(version))
    name = nodeimage.built(version)
    with tempfile.TemporaryDirectory(prefix="node-", dir=_cache()) as folder:
        root = Path(folder) / "root"
        with step(f"Making Debian {nodefiles.SUITE}"):
            packages = ",".join(nodefiles.PACKAGES)
            options = ["--variant=minbase", f"--include={packages}", nodefiles.SUITE, str(root)]
            run_logged(["debootstrap", *options], _cache() / "kind-node-image.log")
        with step(f"Making the node of Kubernetes {version}"):
            _furnish(root, version, programs)
        with step("Making the images of the control plane"):
            _import_images(root, _images(root, version, programs), Path(folder))
        with step(f"Loading {name} into Docker"):
            _load(root, name)
    return name


class _Programs:
    """Our programs: those of Kubernetes in one version, the others as the embedded cluster has them."""

    def __init__(self, family: Family) -> None:
        self._kubernetes = family

    def __getitem__(self, program: str) -> Path:
        return binary(program, self._kubernetes if program in self._kubernetes.programs else None)


def _furnish(root: Path, version: str, programs: _Programs) -> None:
    slim(root)
    _copy_tree(_files_of_kind(), root)
    for folder, names in nodefiles.PROGRAMS.items():
        for name in names:
            _install(programs[name], root / folder / name)
    spec = json.loads(run([programs["ctr"], "oci", "spec"]))
    texts = {
        "etc/containerd/cri-base.json": nodefiles.base_of_containers(spec),
        "etc/cni/net.d/10-node.conflist": nodefiles.network(),
        "kind/version": version,
        "kind/product_name": "kind",
        "kind/manifests/default-cni.yaml": nodefiles.network_manifest(),
        "kind/manifests/default-storage.yaml": nodefiles.storage_manifest(),
    }
    for path, text in texts.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    (root / "etc/kubernetes/manifests").mkdir(parents=True)
    for pattern in nodefiles.UNWANTED:
        for unit in root.glob(pattern):
            unit.unlink()
    for command in (["enable", *nodefiles.UNITS], ["mask", "systemd-binfmt.service"]):
        run(["chroot", root, "systemctl", *command])
    with (root / "etc/systemd/journald.conf").open("a") as journal:
        journal.write("ReadKMsg=no\n")


def _files_of_kind() -> Path:
    """The node's static files, in kind's own Go module."""
    compiler = go()
    command = [str(compiler), "mod", "download", "-json", "sigs.k8s.io/kind"]
    environment = {"GOTOOLCHAIN": "local", "GOWORK": "off", "GOFLAGS": "-mod=readonly"}
    found = json.loads(run(command, folder=folders.GO_SOURCES / "kind", env=environment))
    return Path(found["Dir"]) / "images" / "base" / "files"


def _copy_tree(source: Path, root: Path) -> None:
    """Programs and scripts become executable; module files are read-only, and copies must not be."""
    for file in source.rglob("*"):
        if file.is_file():
            _install(file, root / file.relative_to(source))


def _install(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    run(["cp", "--no-preserve=mode,ownership", source, target])
    target.chmod(0o755 if target.parent.name in ("bin", "sbin") else 0o644)


def _images(root: Path, version: str, programs: _Programs) -> Iterator[Image]:
    listed = run([programs["kubeadm"], "config", "images", "list", "--kubernetes-version", version]).split()
    for image in nodefiles.control_images(listed, (root / _CONTAINERD_CONFIG).read_text()):
        files = {image.path: programs[image.program]}
        if image.program == "kube-proxy":
            layers = layer(files, nodefiles.PROXY_LINKS, root=root, paths=_proxy_files(root))
        else:
            layers = layer(files)
        yield Image(image.name, layers, image.entrypoint)
    provisioner = "local-path-provisioner"
    yield Image(nodefiles.PROVISIONER_IMAGE, layer({f"usr/local/bin/{provisioner}": programs[provisioner]}))
    yield Image(nodefiles.HELPER_IMAGE, layer({"bin/busybox": root / "bin/busybox"}, nodefiles.HELPER_LINKS))


def _proxy_files(root: Path) -> list[str]:
    listed = run(["chroot", root, "dpkg", "--listfiles", *nodefiles.PROXY_PACKAGES]).split("\n")
    return [path.lstrip("/") for path in listed if path.strip() and not path.startswith("/usr/share")]


def _import_images(root: Path, images: Iterator[Image], folder: Path) -> None:
    """Give the images to the containerd of the node, which is started here for that."""
    with _containerd(root, folder) as ctr:
        for image in images:
            archive = folder / "image.tar"
            write_archive(image, archive)
            run([*ctr, "images", "import", "--no-unpack", "--local", archive])
            archive.unlink()


@contextmanager
def _containerd(root: Path, folder: Path) -> Iterator[list[str | Path]]:
    socket, settings = folder / "containerd.sock", folder / "containerd.toml"
    settings.write_text(
        f"version = 3\nroot = '{root}/var/lib/containerd'\nstate = '{folder}/state'\n"
        "disabled_plugins = ['io.containerd.cri.v1.images', 'io.containerd.cri.v1.runtime', "
        "'io.containerd.grpc.v1.cri', 'io.containerd.internal.v1.opt', 'io.containerd.nri.v1.nri']\n"
        f"[grpc]\naddress = '{socket}'\n[ttrpc]\naddress = '{socket}.ttrpc'\n"
    )
    ctr: list[str | Path] = [binary("ctr"), "--address", socket, "--namespace=k8s.io"]
    with (folder / "containerd.log").open("wb") as log:
        process = subprocess.Popen([binary("containerd"), "--config", settings], stdout=log, stderr=log)
        try:
            wait_until(lambda: _answers(ctr), "containerd", seconds=30, alive=lambda: process.poll() is None)
            yield ctr
        finally:
            process.terminate()
            process.wait()


def _answers(ctr: list[str | Path]) -> bool:
    try:
        run([*ctr, "version"])
    except ClusterError:
        return False
    return True


def _load(root: Path, name: str) -> None:
    """`docker import` of the tree, through a pipe: it is a gigabyte."""
    pack = ["tar", "--create", "--numeric-owner", f"--directory={root}", "."]
    with subprocess.Popen(pack, stdout=subprocess.PIPE) as packing:
        done = subprocess.run(
            ["docker", "import", "-", name],
            check=False,
            stdin=packing.stdout,
            capture_output=True,
            text=True,
        )
    if done.returncode or packing.returncode:
        raise ClusterError(f"`docker import` of {name} failed: {done.stderr.strip()}")
    run(["docker", "build", "--tag", name, "-"], stdin=nodefiles.dockerfile(name))


def _cache() -> Path:
    folder = folders.cache()
    folder.mkdir(parents=True, exist_ok=True)
    return folder
