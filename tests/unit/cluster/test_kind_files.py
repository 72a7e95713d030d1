"""What kind, containerd and kubeadm are given for the node, as they read it."""

import io
import json
import re
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest

from finetune_cluster import folders
from finetune_cluster.archives import Image, layer, write_archive
from finetune_cluster.binaries import FAMILIES, kubernetes_module
from finetune_cluster.kind import cluster, config, nodefiles, nodeimage, registry

CONTAINERD = """version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.k8s.io/pause:3.10"
"""
LISTED = """registry.k8s.io/kube-apiserver:v1.36.3
registry.k8s.io/kube-controller-manager:v1.36.3
registry.k8s.io/kube-scheduler:v1.36.3
registry.k8s.io/kube-proxy:v1.36.3
registry.k8s.io/coredns/coredns:v1.14.2
registry.k8s.io/pause:3.10.1
registry.k8s.io/etcd:3.6.8-0
"""


def kind_config(**facts: Any) -> dict[str, Any]:
    text = config.cluster(config.Node("a-node:v1", Path("/state/certs.d"), **facts))
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def kubelet(loaded: dict[str, Any]) -> dict[str, Any]:
    (patch,) = loaded["nodes"][0]["kubeadmConfigPatches"]
    read: dict[str, Any] = json.loads(patch)
    return read


def test_cgroup_v1_is_allowed_on_such_hosts_only() -> None:
    assert "failCgroupV1" not in kubelet(kind_config())
    assert kubelet(kind_config(cgroup_v1=True))["failCgroupV1"] is False


def test_the_node_s_image_and_the_folder_that_marks_it_are_passed_on() -> None:
    (node,) = kind_config()["nodes"]
    assert node["image"] == "a-node:v1"
    mounts = [{"Source": one["hostPath"], "Destination": one["containerPath"]} for one in node["extraMounts"]]
    assert config.owner_of({"Mounts": mounts}) == Path("/state/certs.d")
    assert config.owner_of({"Mounts": []}) is None


@pytest.mark.parametrize("runtime", [None, Path("/project/runc-without-sys-resource")])
def test_the_runtime_is_replaced_where_a_capability_is_missing_and_nowhere_else(runtime: Path | None) -> None:
    loaded = kind_config(runtime=runtime)
    (patch,) = loaded["containerdConfigPatches"]
    cri = tomllib.loads(patch)["plugins"]["io.containerd.grpc.v1.cri"]
    assert cri["registry"] == {"config_path": config.CERTS}
    assert cri.get("restrict_oom_score_adj", False) is bool(runtime)
    assert len(loaded["nodes"][0]["extraMounts"]) == 1 + bool(runtime)
    if runtime:
        assert cri["containerd"]["runtimes"]["runc"]["options"] == {"BinaryName": config.RUNTIME}


@pytest.mark.parametrize(
    ("line", "may"),
    [("CapBnd:\t000001ffffffffff", True), ("CapBnd:\t000001fffeffffff", False), ("", True)],
)
def test_the_missing_capability_is_read_from_the_process_s_own_status(line: str, may: bool) -> None:
    assert config.may_raise_limits(f"Name:\tpython\n{line}\n") is may


def test_kubeadm_s_images_get_the_program_of_their_name_and_containerd_s_pause() -> None:
    images = nodefiles.control_images(LISTED.split(), CONTAINERD)
    assert {image.program for image in images} == {
        *("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy"),
        *("coredns", "pause", "etcd"),
    }
    assert [image.name for image in images if image.program == "pause"] == ["registry.k8s.io/pause:3.10"]
    ours = {program for family in FAMILIES for program in family.programs}
    assert {image.program for image in images} <= ours


def test_coredns_has_every_plugin_of_kubeadm_s_corefile() -> None:
    """kubeadm names these; `log` and others come only with a changed Corefile."""
    source = (folders.GO_SOURCES / "coredns" / "main.go").read_text()
    directives = re.findall(r'"([a-z]+)",?', source.partition("Directives = ")[2])
    named = "errors health ready kubernetes prometheus forward cache loop reload loadbalance"
    assert set(named.split()) <= set(directives)
    imported = {name.replace("metrics", "prometheus") for name in re.findall(r"/plugin/(\w+)", source)}
    assert imported == set(directives)


def test_containers_get_kind_s_hook_and_no_limits() -> None:
    spec = json.loads(nodefiles.base_of_containers({"process": {"rlimits": [1], "cwd": "/"}}))
    assert spec["process"] == {"cwd": "/"}
    assert spec["hooks"]["createContainer"] == [{"path": "/kind/bin/mount-product-files.sh"}]


def test_the_storage_class_is_the_default_and_its_provisioner_may_do_what_it_does() -> None:
    items = json.loads(nodefiles.storage_manifest())["items"]
    by_kind = {item["kind"]: item for item in items}
    assert by_kind["StorageClass"]["metadata"]["name"] == "standard"
    assert set(by_kind["StorageClass"]["metadata"]["annotations"].values()) == {"true"}
    pod = by_kind["Deployment"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == by_kind["ServiceAccount"]["metadata"]["name"]
    (container,) = pod["containers"]
    assert container["image"] == nodefiles.PROVISIONER_IMAGE
    assert nodefiles.HELPER_IMAGE in container["command"]
    helper = json.loads(by_kind["ConfigMap"]["data"]["helperPod.yaml"])
    assert helper["spec"]["containers"][0]["image"] == nodefiles.HELPER_IMAGE
    allowed = {resource for rule in by_kind["ClusterRole"]["rules"] for resource in rule["resources"]}
    assert {"persistentvolumes", "pods", "events"} <= allowed


def test_the_registry_is_found_by_its_name_in_docker_s_network() -> None:
    (server,) = tomllib.loads(registry.hosts_file())["host"]
    assert server == f"http://{registry.NAME}:5000"


def test_an_archive_holds_programs_links_and_files_of_a_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "lib").mkdir(parents=True)
    (root / "lib" / "x.so.1").write_text("x")
    (root / "lib" / "x.so").symlink_to("x.so.1")
    made = layer(
        {"bin/tool": b"tool"}, {"bin/sh": "tool"}, root=root, paths=["lib", "lib/x.so", "lib/x.so.1"]
    )
    archive = tmp_path / "image.tar"
    write_archive(Image("localhost/a:1", made, ("/bin/tool",)), archive)
    with tarfile.open(archive) as outer:
        (manifest,) = json.load(outer.extractfile("manifest.json"))
        settings = json.load(outer.extractfile(manifest["Config"]))
        contents = outer.extractfile("layer.tar").read()
    assert manifest["RepoTags"] == ["localhost/a:1"]
    assert settings["config"]["Entrypoint"] == ["/bin/tool"]
    with tarfile.open(fileobj=io.BytesIO(contents)) as inner:
        entries = {entry.name: entry.linkname for entry in inner}
    assert entries == {"lib/x.so": "x.so.1", "lib/x.so.1": "", "bin/tool": "", "bin/sh": "tool"}


def test_another_kubernetes_is_a_module_with_its_own_staging_modules() -> None:
    upstream = """module k8s.io/kubernetes

go 1.27.1

godebug default=go1.27

replace (
\tk8s.io/api => ./staging/src/k8s.io/api
\tk8s.io/mount-utils => ./staging/src/k8s.io/mount-utils
)
"""
    module = kubernetes_module("v1.37.2", upstream)
    assert "go 1.27.1\n" in module
    assert "godebug default=go1.27\n" in module
    assert "require k8s.io/kubernetes v1.37.2\n" in module
    assert "replace k8s.io/mount-utils => k8s.io/mount-utils v0.37.2\n" in module
    assert module.count("replace") == 2


def test_the_page_names_commands_and_things_that_are_there() -> None:
    page = (folders.PROJECT / "docs" / "kind.md").read_text()
    makefile = (folders.PROJECT / "Makefile").read_text()
    targets = set(re.findall(r"(?:^|`|sudo |demo )make ([a-z0-9-]+)", page, re.MULTILINE))
    assert {"demo", "demo-clean", "test-e2e", "test-kind", "kind-node-image"} <= targets
    assert [target for target in targets if f"\n{target}: " not in makefile] == []
    for script in re.findall(r"`(hack/[\w-]+|cluster/kind/[\w-]+)", page):
        assert (folders.PROJECT / script).stat().st_mode & 0o111, f"{script} is not executable"
    for name in (cluster.NODE, registry.NAME, nodeimage.built(""), "dev.finetune.cluster", "KIND_NODE_IMAGE"):
        assert name in page
