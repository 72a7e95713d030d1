"""What is written for the node's programs, as they read it."""

import base64
import json
import tomllib
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID

from finetune_cluster import credentials, nodeconfig, volumes
from finetune_cluster.toolchain import OLDEST_GO, version_of


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    paths = nodeconfig.NodePaths(
        state=tmp_path / "state",
        containerd_root=tmp_path / "containerd",
        registry_data=tmp_path / "registry",
        cni_programs=tmp_path / "cni",
        runc=tmp_path / "runc",
        shim=tmp_path / "shim",
        authority=tmp_path / "ca.crt",
        proxy_kubeconfig=tmp_path / "proxy",
        dns_kubeconfig=tmp_path / "dns",
    )
    return {path.name: text for path, text in nodeconfig.files(paths).items()}


def test_containerd_uses_our_runc_and_keeps_images_where_they_outlive_the_cluster(files, tmp_path) -> None:
    config = tomllib.loads(files["containerd.toml"])
    runtime = config["plugins"]["io.containerd.cri.v1.runtime"]["containerd"]["runtimes"]["runc"]
    assert runtime["options"] == {"BinaryName": str(tmp_path / "runc"), "SystemdCgroup": False}
    assert runtime["runtime_path"] == str(tmp_path / "shim"), "the one on PATH may be Docker's"
    assert config["root"] == str(tmp_path / "containerd")
    assert config["state"].startswith(str(tmp_path / "state"))


def test_the_kubelet_never_deletes_images_and_stays_in_our_cgroup(files) -> None:
    kubelet = json.loads(files["kubelet.json"])
    assert kubelet["imageGCHighThresholdPercent"] == 100
    assert kubelet["cgroupRoot"] == "/finetune"


def test_the_dns_that_pods_are_given_is_the_one_that_listens(files) -> None:
    address = json.loads(files["kubelet.json"])["clusterDNS"][0]
    assert f"bind {address}" in files["Corefile"]


def test_the_api_server_is_trusted_under_every_address_that_it_is_called_by(tmp_path: Path) -> None:
    addresses = ["172.31.250.2", "127.0.0.1", "10.96.0.1"]
    made = credentials.create(tmp_path, "https://172.31.250.2:6443", addresses, {"admin": "system:masters"})
    certificate = x509.load_pem_x509_certificate(made.server[0].read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == addresses
    assert "kubernetes.default.svc" in names.get_values_for_type(x509.DNSName)
    config = yaml.safe_load(made.kubeconfig("admin").read_text())
    authority = base64.b64decode(config["clusters"][0]["cluster"]["certificate-authority-data"])
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority))


def test_the_api_server_is_an_administrator_to_the_kubelet_and_has_an_alternative_name(
    tmp_path: Path,
) -> None:
    made = credentials.create(tmp_path, "https://127.0.0.1:6443", ["127.0.0.1"], {})
    certificate = x509.load_pem_x509_certificate(made.kubelet_client[0].read_bytes())
    groups = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    assert [group.value for group in groups] == ["system:masters"]
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert len(names) == 1, "Go refuses a critical extension that is empty"


def test_tokens_are_signed_with_the_key_of_the_certificate_that_verifies_them(tmp_path: Path) -> None:
    made = credentials.create(tmp_path, "https://127.0.0.1:6443", ["127.0.0.1"], {})
    certificate, key = (path.read_bytes() for path in made.service_account)
    public = load_pem_private_key(key, None).public_key()
    assert x509.load_pem_x509_certificate(certificate).public_key() == public
    assert {path.stat().st_mode & 0o77 for path in tmp_path.glob("*.key")} == {0}


def test_new_volumes_fill_the_gaps_that_recycled_ones_left() -> None:
    assert volumes.free_names({"pv-00", "pv-02"}, 3) == ["pv-01", "pv-03", "pv-04"]


@pytest.mark.parametrize(
    ("line", "good"),
    [
        ("go version go1.26.8 linux/amd64", True),
        ("go version go1.27 linux/arm64", True),
        ("go version go1.26.5 linux/amd64", False),
        ("go version devel +abc", False),
        ("", False),
    ],
)
def test_a_go_that_is_too_old_or_has_no_release_is_not_used(line: str, good: bool) -> None:
    assert (version_of(line) >= OLDEST_GO) is good
