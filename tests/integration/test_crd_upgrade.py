"""FineTuneJobs that the first CRD stored, with its defaults inside: the same file can be applied after the upgrade."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders import script_job
from finetune_api.crd import crd
from finetune_cluster.apiserver import ApiServer
from integration.operator_rig import ROOT, Rest, install_crd, until
from integration.pages import commands, shell
from integration.test_apply_again import CLIENT, EMPTY, SERVER, TAKEN_OVER

Json = dict[str, Any]
Apply = Callable[[Json, tuple[str, ...]], Json]

NAMESPACE = "upgrade"
JOBS = {**EMPTY, "a script": script_job()}


def first_crd() -> Json:
    """Today's CRD with the defaults that the first one had."""
    definition = copy.deepcopy(crd())
    (version,) = definition["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    for place, default in json.loads((ROOT / "tests/golden/crd-defaults-v1.json").read_text()).items():
        node = spec
        for name in place.split("."):
            node = node["properties"][name]
        node["default"] = default
    return definition


def named(title: str, way: str) -> Json:
    job = copy.deepcopy(JOBS[title])
    job["metadata"]["name"] = f"{title.replace(' ', '-')}-{way}"
    return job


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server on which jobs were created under the first CRD, by either apply, before the upgrade to today's."""
    folder = tmp_path_factory.mktemp("upgrade")
    with ApiServer.start() as server:
        rest = Rest(server)
        install_crd(rest, first_crd())
        rest("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        apply = applying(server, folder)
        until(
            lambda: "classWeights" in str(apply(job_with_objective(), (*CLIENT, "--dry-run=server"))),
            "defaults",
        )
        for title in JOBS:
            for way, command in (("client", CLIENT), ("server", SERVER)):
                apply(named(title, way), command)
        install_crd(rest)
        until(
            lambda: "classWeights" not in str(apply(job_with_objective(), (*CLIENT, "--dry-run=server"))),
            "the new CRD is in force",
        )
        yield server, apply


def job_with_objective() -> Json:
    return named("maps", "probe")


def applying(server: ApiServer, folder: Path) -> Apply:
    def apply(job: Json, command: tuple[str, ...]) -> Json:
        (folder / "job.yaml").write_text(yaml.safe_dump(job))
        words = " ".join(command).replace("-f -", "-f job.yaml")
        text = shell(f"kubectl --namespace {NAMESPACE} {words} -o json", server.kubeconfig, folder)
        return dict(json.loads(text))

    return apply


def unchanged(apply: Apply, job: Json, *ways: tuple[str, ...]) -> None:
    """Each apply succeeds and leaves the spec as it is."""
    for way in ways:
        assert apply(job, way)["metadata"]["generation"] == 1


def forget_owners(server: ApiServer, name: str, folder: Path) -> None:
    """What the page says."""
    names = {"movie_sentiment": name, "team_a": NAMESPACE}
    for command in commands("upgrade.md", "managedFields", **names):
        shell(command, server.kubeconfig, folder)


@pytest.mark.parametrize("title", JOBS)
def test_a_job_of_client_side_apply_is_applied_again_after_the_upgrade(
    upgraded: tuple[ApiServer, Apply], title: str, tmp_path: Path
) -> None:
    server, apply = upgraded
    job = named(title, "client")
    unchanged(apply, job, CLIENT)
    forget_owners(server, job["metadata"]["name"], tmp_path)
    unchanged(apply, job, SERVER, SERVER, CLIENT, CLIENT, SERVER, SERVER, TAKEN_OVER)


@pytest.mark.parametrize("title", JOBS)
def test_a_job_of_server_side_apply_needs_nothing(upgraded: tuple[ApiServer, Apply], title: str) -> None:
    _, apply = upgraded
    unchanged(apply, named(title, "server"), SERVER, SERVER, CLIENT, SERVER, SERVER, TAKEN_OVER)


@pytest.mark.parametrize("way", [SERVER, TAKEN_OVER], ids=["kubectl", "another manager"])
def test_after_the_failure_that_the_page_describes_its_command_helps(
    upgraded: tuple[ApiServer, Apply], way: tuple[str, ...], tmp_path: Path
) -> None:
    server, apply = upgraded
    job = named("an adapter", "client")
    job["metadata"]["name"] = f"fails-{len(way)}"
    install_crd(Rest(server), first_crd())
    until(
        lambda: "classWeights" in str(apply(job, (*CLIENT, "--dry-run=server"))), "the first CRD is in force"
    )
    apply(job, CLIENT)
    install_crd(Rest(server))
    apply(job, way)
    with pytest.raises(AssertionError, match=r'Invalid value: "null"'):
        apply(job, way)
    forget_owners(server, job["metadata"]["name"], tmp_path)
    unchanged(apply, job, SERVER, SERVER)
    job["spec"]["suspend"] = True
    with pytest.raises(AssertionError, match="conflict"):
        apply(job, SERVER)
    assert apply(job, (*SERVER, "--force-conflicts"))["spec"]["suspend"] is True
    assert apply(job | {"spec": job["spec"] | {"suspend": False}}, SERVER)["spec"]["suspend"] is False
