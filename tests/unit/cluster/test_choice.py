"""CLUSTER decides, and where it says auto, the machine does."""

import pytest

from finetune_cluster.choice import choose
from finetune_cluster.errors import ClusterError


def nobody_may_ask() -> bool:
    raise AssertionError("an explicit choice needs no look at Docker")


@pytest.mark.parametrize("wanted", ["embedded", "kind", "existing"])
def test_an_explicit_choice_is_taken_without_looking_at_the_machine(wanted: str) -> None:
    assert choose(wanted, docker=nobody_may_ask, root=False) == wanted


def test_docker_comes_before_root() -> None:
    assert choose("auto", docker=lambda: True, root=True) == "kind"


def test_without_docker_root_gets_the_embedded_cluster() -> None:
    assert choose("auto", docker=lambda: False, root=True) == "embedded"


def test_without_both_the_error_names_every_way_out() -> None:
    with pytest.raises(ClusterError, match=r"(?s)Docker.*CLUSTER=embedded.*CLUSTER=existing"):
        choose("auto", docker=lambda: False, root=False)


def test_a_misspelt_choice_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(ClusterError, match="auto, embedded, kind or existing, not 'minikube'"):
        choose("minikube", docker=lambda: True, root=True)
