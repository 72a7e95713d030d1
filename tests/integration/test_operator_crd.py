"""The CRD is deleted while the operator runs: it says so, stays up, and serves FineTuneJobs when the CRD is back."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_api.crd import crd
from finetune_cluster.apiserver import ApiServer
from integration.operator_rig import (
    CRDS,
    Operator,
    Rest,
    World,
    install_crd,
    make_namespace,
    running,
    until,
)

GONE = "the CustomResourceDefinition finetunejobs.finetune.dev is not installed"
BACK = "the CustomResourceDefinition finetunejobs.finetune.dev is installed: FineTuneJobs are served"


@pytest.fixture(scope="module")
def rest() -> Iterator[tuple[ApiServer, Rest]]:
    """A server of this module's own: without the CRD no other test could run."""
    server = ApiServer.start(controllers=True)
    yield server, Rest(server)
    server.stop()


def delete_crd(rest: Rest) -> None:
    path = f"{CRDS}/{crd()['metadata']['name']}"
    rest("DELETE", path)
    until(lambda: rest.get(path) is None, "the CRD is gone")


@pytest.mark.parametrize(
    ("namespaces", "times"), [([], 2), (["crd-some", "crd-other"], 1)], ids=["all namespaces", "some"]
)
def test_a_crd_that_is_deleted_and_made_again(
    rest: tuple[ApiServer, Rest], tmp_path: Path, namespaces: list[str], times: int
) -> None:
    server, ask = rest
    install_crd(ask)
    for name in namespaces or ["crd-all"]:
        make_namespace(ask, name)
    world = World(ask, (namespaces or ["crd-all"])[0])
    with running(server.kubeconfig, tmp_path, namespaces=namespaces) as operator:
        for _ in range(times):
            world.run(world.apply())
            delete_crd(ask)
            until(lambda: not operator.answers("/readyz"), "it is not ready", log=operator)
            until(lambda: GONE in operator.log(), "it says so", log=operator)
            install_crd(ask)
            until(lambda: operator.answers("/readyz"), "it is ready again", log=operator)
            again = world.apply()
            world.succeed(world.run(again))
            world.until_phase(again, "Succeeded")
        log = operator.log(characters=10**7)
        assert (log.count(GONE), log.count(BACK)) == (times, times), log
        assert "Traceback" not in log, log
        assert operator.stop() == 0


def test_an_operator_that_starts_without_the_crd_waits_for_it(
    rest: tuple[ApiServer, Rest], tmp_path: Path
) -> None:
    server, ask = rest
    install_crd(ask)
    world = make_namespace(ask, "crd-late")
    delete_crd(ask)
    operator = Operator(server.kubeconfig, tmp_path, {}).start()
    try:
        until(lambda: GONE in operator.log(), "it says so", log=operator)
        install_crd(ask)
        operator.ready()
        world.pod(world.apply())
    finally:
        operator.kill()


def test_sigterm_ends_an_operator_that_waits_for_the_crd(
    rest: tuple[ApiServer, Rest], tmp_path: Path
) -> None:
    server, ask = rest
    install_crd(ask)
    delete_crd(ask)
    operator = Operator(server.kubeconfig, tmp_path, {}).start()
    until(lambda: GONE in operator.log(), "it says so", log=operator)
    assert operator.stop() == 0
