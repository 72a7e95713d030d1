"""What all tests with faults share: one API server with its controllers, and a rig in a namespace of the test's own."""

import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.rig import Rig, rig
from finetune_cluster.apiserver import ApiServer
from integration.operator_rig import Rest, shared_server


@pytest.fixture(scope="session")
def cluster() -> ApiServer:
    """The server."""
    return shared_server()


@pytest.fixture(scope="session")
def rest(cluster: ApiServer) -> Rest:
    """A client of it."""
    return Rest(cluster)


@pytest.fixture
def found(cluster: ApiServer, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Rig]:
    """An operator behind a scripted proxy, with its observer and kubelet."""
    words = re.findall("[a-z0-9]+", request.node.name.removeprefix("test_"))
    name = "-".join([*words[:4], f"{zlib.crc32(request.node.name.encode()):x}"])
    with rig(cluster, tmp_path, name) as one:
        yield one
