"""Helm 4 and Helm 3 make the same of the chart, and install it from a registry."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3
import yaml

from chart.rendering import ALL, CHART, NAMESPACE, NAMESPACED, RELEASE, Json
from finetune_cluster.apiserver import ApiServer
from finetune_cluster.binaries import binary
from integration.operator_rig import Rest, make_namespace, until
from integration.release import CRD, IMAGE, Tools
from ports import free_port

HELMS = ("helm", "helm3")
VALUES = {"defaults": {}, "some namespaces": NAMESPACED, "all values": ALL}
VERSION = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]


def run(program: str, *arguments: str, values: Json | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(binary(program)), *arguments],
        input=json.dumps(values or {}),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def output(program: str, *arguments: str, values: Json | None = None) -> str:
    done = run(program, *arguments, values=values)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_both_render_the_same_objects(values: Json) -> None:
    command = ("template", RELEASE, str(CHART), "--namespace", NAMESPACE, "--values", "-")
    four, three = ([*yaml.safe_load_all(output(one, *command, values=values))] for one in HELMS)
    assert [one for one in three if one] == [one for one in four if one]


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("program", HELMS)
def test_lint_has_nothing_to_criticise(program: str, values: Json) -> None:
    assert "0 chart(s) failed" in output(
        program, "lint", "--strict", str(CHART), "--values", "-", values=values
    )


@pytest.mark.parametrize("program", HELMS)
def test_both_refuse_wrong_values(program: str) -> None:
    done = run(program, "template", str(CHART), "--values", "-", values={"operator": {"workers": 0}})
    assert done.returncode == 1
    assert "workers" in done.stderr


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry without TLS; its address."""
    folder, address = tmp_path_factory.mktemp("registry"), f"127.0.0.1:{free_port()}"
    config = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": address, "secret": "of a test"},
        "log": {"level": "error"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    process = subprocess.Popen([str(binary("registry")), "serve", str(folder / "config.json")])
    try:
        until(lambda: answers(f"http://{address}/v2/"), "the registry answers")
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


def answers(url: str) -> bool:
    try:
        return urllib3.request("GET", url, retries=False, timeout=5).status == 200
    except urllib3.exceptions.HTTPError:
        return False


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with ApiServer.start(controllers=True) as started:
        make_namespace(Rest(started), NAMESPACE, inputs=False)
        yield started


@pytest.mark.parametrize("program", HELMS)
def test_the_packaged_chart_is_installed_from_a_registry(
    server: ApiServer, registry: str, program: str, tmp_path: Path
) -> None:
    output(program, "package", str(CHART), "--destination", str(tmp_path))
    package, place = tmp_path / f"{RELEASE}-{VERSION}.tgz", f"oci://{registry}/{program}"
    output(program, "push", str(package), place, "--plain-http")
    tools, chart = Tools(server, program), f"{place}/{RELEASE}"
    assert yaml.safe_load(output(program, "show", "chart", chart, "--plain-http"))["version"] == VERSION
    tools.helm("install", chart, "--version", VERSION, "--plain-http", "--set", IMAGE)
    deployment = tools.get("deployment", RELEASE, "--namespace", NAMESPACE)
    tools.helm("upgrade", chart, "--version", VERSION, "--plain-http", "--set", IMAGE)
    again = tools.get("deployment", RELEASE, "--namespace", NAMESPACE)
    assert again["metadata"]["generation"] == deployment["metadata"]["generation"] == 1
    tools.helm("uninstall")
    tools.kubectl("delete", CRD)
