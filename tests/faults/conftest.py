"""What all tests with faults share: one API server with its controllers."""

import pytest

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
