"""One API server with its controllers for all tests of Kueue and of the scheduler."""

import pytest

from finetune_cluster.apiserver import ApiServer
from integration.operator_rig import Rest, shared_server


@pytest.fixture(scope="session")
def cluster() -> ApiServer:
    return shared_server()


@pytest.fixture(scope="session")
def rest(cluster: ApiServer) -> Rest:
    return Rest(cluster)
