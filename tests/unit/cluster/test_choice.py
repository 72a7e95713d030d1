"""CLUSTER decides, and where it says auto, the machine does."""

import pytest

from finetune_cluster import choice, record
from finetune_cluster.choice import Choice, choose
from finetune_cluster.errors import ClusterError
from finetune_cluster.node import NodeCluster

STOPPED = "Docker is not running at unix:///var/run/docker.sock. Start it."
NO_IMAGE = "The image kindest/node:v1 is not in Docker and cannot be pulled (no route to host). Name another."


def nobody_may_ask() -> str:
    raise AssertionError("this needs no look at Docker")


def auto(*, engine: str = "", image: str = "", root: bool = True, started: str = "") -> Choice:
    return choose("auto", started=started, engine=lambda: engine, image=lambda: image, root=root)


@pytest.mark.parametrize("wanted", ["embedded", "kind", "existing"])
def test_an_explicit_choice_is_taken_without_looking_at_the_machine(wanted: str) -> None:
    chosen = choose(wanted, started="kind", engine=nobody_may_ask, image=nobody_may_ask, root=False)
    assert chosen == Choice(wanted)


@pytest.mark.parametrize("root", [True, False])
def test_a_docker_with_a_node_image_comes_before_root(root: bool) -> None:
    assert auto(root=root) == Choice("kind")


@pytest.mark.parametrize("facts", [{"engine": STOPPED}, {"image": NO_IMAGE}])
def test_root_gets_the_embedded_cluster_where_kind_cannot_start_and_reads_why(facts: dict[str, str]) -> None:
    chosen = auto(**facts)
    assert chosen.kind == "embedded"
    assert chosen.why == f"{next(iter(facts.values()))} The embedded cluster is used instead of kind."


@pytest.mark.parametrize("facts", [{"engine": STOPPED}, {"image": NO_IMAGE}])
def test_without_root_the_error_names_the_problem_and_every_way_out(facts: dict[str, str]) -> None:
    with pytest.raises(ClusterError, match=r"(?s)as root.*CLUSTER=existing") as raised:
        auto(root=False, **facts)
    assert next(iter(facts.values())) in str(raised.value)


def test_the_node_image_is_not_looked_for_without_an_engine() -> None:
    chosen = choose("auto", started="", engine=lambda: STOPPED, image=nobody_may_ask, root=True)
    assert chosen.kind == "embedded"


def test_a_started_cluster_is_the_one_that_later_commands_are_about() -> None:
    assert choose(
        "auto", started="embedded", engine=nobody_may_ask, image=nobody_may_ask, root=True
    ).kind == ("embedded")
    assert choose("auto", started="kind", engine=str, image=nobody_may_ask, root=True).kind == "kind"
    assert auto(started="kind", engine=STOPPED).kind == "embedded", "Docker may be gone since"


def test_a_misspelt_choice_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(ClusterError, match="auto, embedded, kind or existing, not 'minikube'"):
        choose("minikube", started="", engine=str, image=str, root=True)


def test_what_is_stopped_is_what_was_started(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("CLUSTER", raising=False)
    assert choice.started_cluster() is None
    record.remember("embedded")
    assert isinstance(choice.started_cluster(), NodeCluster)
    record.forget()
    assert choice.started_cluster() is None
    monkeypatch.setenv("CLUSTER", "embedded")
    assert isinstance(choice.started_cluster(), NodeCluster)
