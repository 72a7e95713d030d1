"""A real API server (etcd and kube-apiserver), started once per session, with the CRD installed."""

import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import count

import pytest
from kubernetes import config
from kubernetes.client import ApiClient, ApiextensionsV1Api, CoreV1Api

from finetune_api.crd import crd
from finetune_cluster.apiserver import ApiServer
from finetune_cluster.binaries import binary
from integration.jobs import Jobs
from integration.operator_rig import Rest, shared_server

Kubectl = Callable[..., "subprocess.CompletedProcess[str]"]

_numbers = count(1)


@pytest.fixture(scope="session")
def server() -> Iterator[ApiServer]:
    with ApiServer.start() as running:
        yield running


@pytest.fixture(scope="session")
def cluster() -> ApiServer:
    """The server with controllers that the operator's tests share."""
    return shared_server()


@pytest.fixture(scope="session")
def rest(cluster: ApiServer) -> Rest:
    """A client of it."""
    return Rest(cluster)


@pytest.fixture(scope="session")
def client(server: ApiServer) -> Iterator[ApiClient]:
    """A client of the server, which knows FineTuneJobs."""
    with config.new_client_from_config(str(server.kubeconfig)) as connected:
        ApiextensionsV1Api(connected).create_custom_resource_definition(crd())
        deadline = time.monotonic() + 60
        while not _served(connected, server):
            assert time.monotonic() < deadline, "the CRD is not served after 60 s"
            time.sleep(0.05)
        yield connected


def _served(client: ApiClient, server: ApiServer) -> bool:
    """Established, and in the OpenAPI document by which kubectl explains and the server checks field names."""
    stored = ApiextensionsV1Api(client).read_custom_resource_definition(crd()["metadata"]["name"])
    conditions = {one.type: one.status for one in stored.status.conditions or []}
    if conditions.get("Established") != "True":
        return False
    token = {"Authorization": f"Bearer {server.token}", "Accept": "application/json"}
    answer = client.call_api("GET", f"{server.url}/openapi/v3", token)
    return b"apis/finetune.dev/v1alpha1" in answer.read()


@pytest.fixture
def namespace(client: ApiClient) -> str:
    """A namespace of the test's own."""
    name = f"test-{next(_numbers)}"
    CoreV1Api(client).create_namespace({"metadata": {"name": name}})
    return name


@pytest.fixture
def jobs(client: ApiClient, namespace: str) -> Jobs:
    return Jobs(client, namespace)


@pytest.fixture
def kubectl(server: ApiServer, namespace: str) -> Kubectl:
    """Run kubectl in the test's namespace."""
    program = [str(binary("kubectl")), "--kubeconfig", str(server.kubeconfig), "--namespace", namespace]

    def run(*arguments: str, text: str = "") -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*program, *arguments], input=text, capture_output=True, text=True, check=False, timeout=60
        )

    return run


@pytest.fixture
def output(kubectl: Kubectl) -> Callable[..., str]:
    """Run kubectl, which has to succeed, and return what it prints."""

    def run(*arguments: str, text: str = "") -> str:
        done = kubectl(*arguments, text=text)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
