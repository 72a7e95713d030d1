"""The schemas of Kubernetes and of what the chart and the examples know of it, as kubeconform reads them.

They come from a running API server, on which the CustomResourceDefinitions of Flux, Argo CD and the Prometheus
operator are installed: that of Argo CD is in its Go module, the others are made from Go types by controller-gen.
"""

import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from finetune_cluster.apiserver import ApiServer
from finetune_cluster.binaries import binary, family_of
from finetune_cluster.toolchain import go
from integration.operator_rig import CRDS, Rest, install_crd, until

Json = dict[str, Any]

TYPES = (
    "github.com/fluxcd/helm-controller/api/v2",
    "github.com/fluxcd/kustomize-controller/api/v1",
    "github.com/fluxcd/source-controller/api/v1",
    "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1",
)
USED = (
    "helmreleases",
    "kustomizations",
    "gitrepositories",
    "ocirepositories",
    "servicemonitors",
    "podmonitors",
    "prometheusrules",
)
ARGO_CD = ("github.com/argoproj/argo-cd/v3", "v3.3.0", "h1:9UlruTd5cC/MyvorTXgAIblfZTy63MF5FYvvoAaUvwU=")
LOCATION = "{{.Group}}_{{.ResourceAPIVersion}}_{{.ResourceKind}}.json"


def definitions() -> Iterator[Json]:
    """The CustomResourceDefinitions, without our own."""
    for file in sorted(_generated().glob("*.yaml")):
        if file.stem.partition("_")[2] in USED:
            yield yaml.safe_load(file.read_text())
    yield yaml.safe_load((_module(*ARGO_CD) / "manifests/crds/application-crd.yaml").read_text())


def _generated() -> Path:
    family = family_of("controller-gen")
    program, folder = binary("controller-gen"), family.folder / "definitions"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=family.folder) as half:
            paths = [f"paths={package}" for package in TYPES]
            command = ["nice", str(program), "crd", *paths, f"output:crd:dir={half}/definitions"]
            environment = {
                "PATH": f"{go().parent}:/usr/bin:/bin",
                "HOME": str(Path.home()),
                "GOFLAGS": "-mod=readonly",
            }
            subprocess.run(command, cwd=family.sources, env=environment, check=True, timeout=900)
            Path(half, "definitions").rename(folder)
    return folder


def _module(path: str, version: str, checksum: str) -> Path:
    """The folder of a Go module."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(go()), "mod", "download", "-json", f"{path}@{version}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=600)
    found = json.loads(done.stdout)
    assert found["Sum"] == checksum, f"{path}@{version} is not the module that was pinned"
    return Path(found["Dir"])


def write_schemas(server: ApiServer, folder: Path) -> None:
    """Write a file for every kind that the server knows, with the definitions above."""
    rest = Rest(server)
    install_crd(rest)
    for definition in definitions():
        rest("POST", CRDS, definition)
    wanted = "apis/argoproj.io/v1alpha1", "apis/helm.toolkit.fluxcd.io/v2", "apis/monitoring.coreos.com/v1"
    until(lambda: set(wanted) <= set(rest("GET", "/openapi/v3")["paths"]), "all kinds are published")
    for place in rest("GET", "/openapi/v3")["paths"]:
        schemas = rest("GET", f"/openapi/v3/{place}").get("components", {}).get("schemas", {})
        for name, schema in schemas.items():
            for kind in schema.get("x-kubernetes-group-version-kind", []):
                # to kubeconform the group of core objects is v1
                group, version = kind["group"] or kind["version"], kind["version"]
                whole = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": _closed(schemas)}}
                file = folder / f"{group}_{version}_{kind['kind'].lower()}.json"
                file.write_text(json.dumps(whole))


def _closed(schema: Any) -> Any:
    """With every object refusing fields that it does not name, as the server does for strict clients."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    free = {"additionalProperties", "x-kubernetes-preserve-unknown-fields"} & set(schema)
    is_object = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    return closed | {"additionalProperties": False} if is_object and not free else closed


def kubeconform(folder: Path, text: str) -> "subprocess.CompletedProcess[str]":
    """Check objects against the schemas in a folder."""
    command = [str(binary("kubeconform")), "-strict", "-summary", "-schema-location", f"{folder}/{LOCATION}"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=120)
