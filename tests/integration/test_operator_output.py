"""Jobs with one output.uri, or one inside the other's, against a real API server: they train one after the other."""

from collections.abc import Iterator
from typing import Any

import pytest

from finetune_api.run import ExitCode
from finetune_cluster.apiserver import ApiServer
from integration.operator_rig import JOBS, Operator, Rest, World, serving, until

NAMESPACE = "outputs"
SEARCH = {"search": {"parameters": [{"path": "training.batchSize", "choice": [16, 32]}], "algorithm": "Grid"}}


@pytest.fixture(scope="module")
def operator(cluster: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    with serving(cluster, tmp_path_factory.mktemp("operator"), NAMESPACE) as started:
        yield started


@pytest.fixture
def world(operator: Operator, rest: Rest) -> World:
    return World(rest, NAMESPACE)


def says(uri: str, holder: str) -> str:
    return (
        f"output.uri {uri} is also that of FineTuneJob {holder}, which has not ended; wait for it, delete it, or create"
        " this job with another output.uri"
    )


@pytest.mark.parametrize("end", ["fails", "is deleted"])
def test_the_second_begins_at_once_when_the_first_has_ended(
    world: World, operator: Operator, end: str
) -> None:
    output = {"uri": f"pvc://demo/models/{end.replace(' ', '-')}"}
    first = world.apply(output=output)
    pod = world.run(first)
    world.until_phase(first, "Running")
    second = world.apply(output=output)
    assert world.until_reason(second, "OutputTaken")["message"] == says(output["uri"], first)
    assert world.status(second)["phase"] == "Pending"
    assert world.children(second) == []
    assert world.status(first)["phase"] == "Running"
    if end == "fails":
        world.end(pod, ExitCode.DATA)
        world.until_phase(first, "Failed")
    else:
        world.delete(first)
    world.succeed(world.run(second))
    status = world.until_phase(second, "Succeeded")
    assert len(status["attempts"]) == 1
    assert [one["reason"] for one in world.events(second)].count("OutputTaken") == 1


@pytest.mark.parametrize(
    ("first_uri", "second_uri", "relation"),
    [
        ("pvc://demo/outer", "pvc://demo/outer/team/a", "is inside"),
        ("pvc://demo/inner/team/a", "pvc://demo/inner", "contains"),
    ],
)
def test_one_inside_the_other_waits_too(world: World, first_uri: str, second_uri: str, relation: str) -> None:
    first = world.apply(output={"uri": first_uri})
    pod = world.run(first)
    second = world.apply(output={"uri": second_uri})
    assert world.until_reason(second, "OutputTaken")["message"] == (
        f"output.uri {second_uri} {relation} {first_uri}, the output.uri of FineTuneJob {first}, which has not ended;"
        " wait for it, delete it, or create this job with another output.uri"
    )
    assert world.children(second) == []
    outer = min(first_uri, second_uri, key=len)
    world.run(world.apply(output={"uri": f"{outer}-2"}))
    world.end(pod, ExitCode.DATA)
    world.run(second)
    world.until_phase(second, "Running")


def test_of_jobs_that_are_created_together_one_begins(world: World) -> None:
    output = {"uri": "pvc://demo/models/together"}
    names = [world.apply(output=output) for _ in range(4)]

    def one_began() -> Any:
        reasons = [world.reason(name) for name in names]
        return reasons.count("OutputTaken") == 3 and [name for name in names if world.children(name)]

    (first,) = until(one_began, "three wait for one")
    for name in names:
        if name != first:
            assert says(output["uri"], first) == world.condition(name, "Running")["message"]


def test_a_search_waits_without_runs_which_then_do_not_wait_for_it(world: World) -> None:
    output = {"uri": "pvc://demo/models/searched"}
    first = world.apply(output=output)
    pod = world.run(first)
    search = world.apply(output=output, **SEARCH)
    assert world.until_reason(search, "OutputTaken")["message"] == says(output["uri"], first)
    assert "startTime" not in world.status(search)
    world.end(pod, ExitCode.DATA)

    def runs() -> list[str]:
        found = [one["metadata"]["name"] for one in world.rest.items(world.at(JOBS))]
        return [name for name in found if name.startswith(f"{search}-")]

    for name in until(runs, "it has a trial"):
        world.run(name)
        world.until_phase(name, "Running")
    world.until_phase(search, "Running")
