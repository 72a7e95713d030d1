"""What labels of nodes tell of GPUs, and what preflight makes of it."""

from typing import Any

import pytest

from finetune_core.plan.effective import resolve
from finetune_core.plan.gpus import Gpus, gpus_of, selector_of
from finetune_core.plan.preflight import preflight_config
from unit.operator.worlds import parsed, settings

MIB = 2**20
A100, T4 = "NVIDIA-A100-SXM4-80GB", "Tesla-T4"
TAINT = {"key": "pool", "value": "gold", "effect": "NoSchedule"}
SMALL_AND_LARGE = Gpus(2, 81_920 * MIB, 15_360 * MIB, None)


def node(memory: int, product: str = A100, count: int = 8, *taints: dict[str, Any]) -> dict[str, Any]:
    of = {"memory": str(memory), "product": product, "count": str(count)}
    labels = {f"nvidia.com/gpu.{name}": value for name, value in of.items()}
    return {"metadata": {"labels": labels}, "spec": {"taints": list(taints)}}


def found(*nodes: dict[str, Any], administrator: dict[str, Any] | None = None, **fields: Any) -> Gpus | None:
    job, given = parsed(**({"resources": {"gpusPerNode": 1}} | fields)), settings(**(administrator or {}))
    return gpus_of(nodes, job, resolve(job, given), given)


LARGE_ONLY: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a taint that the job does not tolerate": (node(15_360, T4, 8, TAINT), {}),
    "fewer GPUs than the job wants": (node(15_360, T4, 2), {"resources": {"gpusPerNode": 4}}),
    "a label that is no number": (
        node(15_360, T4) | {"metadata": {"labels": {"nvidia.com/gpu.memory": "x"}}},
        {},
    ),
    "a node without labels": ({"metadata": {"labels": None}, "spec": None}, {}),
}


@pytest.mark.parametrize("why", LARGE_ONLY)
def test_a_node_that_the_job_cannot_run_on_does_not_count(why: str) -> None:
    other, fields = LARGE_ONLY[why]
    gpus = found(node(81_920), other, **fields)
    assert gpus
    assert (gpus.nodes, gpus.memory, gpus.least_memory) == (1, 81_920 * MIB, 81_920 * MIB)


TAINTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "of another kind": (TAINT | {"effect": "PreferNoSchedule"}, {}),
    "that is tolerated by value": (TAINT, {"key": "pool", "value": "gold"}),
    "that is tolerated by key": (TAINT, {"key": "pool", "operator": "Exists", "effect": "NoSchedule"}),
    "all of which are tolerated": (TAINT, {"operator": "Exists"}),
    "of a node that is cordoned": ({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}, {}),
    "named after the resource": ({"key": "nvidia.com/gpu", "effect": "NoSchedule"}, {}),
}


@pytest.mark.parametrize("kind", TAINTS)
def test_a_taint_keeps_nothing_from_counting(kind: str) -> None:
    taint, toleration = TAINTS[kind]
    scheduling = {"scheduling": {"tolerations": [toleration]}} if toleration else {}
    assert found(node(81_920), node(15_360, T4, 8, taint), **scheduling) == SMALL_AND_LARGE


@pytest.mark.parametrize(
    ("majors", "expected"),
    [(("9",), (9, 9)), (("8", "7"), (8, 7)), (("8", None), (None, None)), (("8", "x"), (None, None))],
)
def test_the_compute_capability_is_known_where_all_nodes_show_it(
    majors: tuple[str | None, ...], expected: tuple[int | None, int | None]
) -> None:
    nodes = [node(81_920) for _ in majors]
    for one, major in zip(nodes, majors, strict=True):
        one["metadata"]["labels"] |= {"nvidia.com/gpu.compute.major": major} if major else {}
    gpus = found(*nodes)
    assert gpus
    assert (gpus.capability, gpus.least_capability) == expected


def test_nodes_that_tell_nothing_leave_the_memory_unknown() -> None:
    assert found() is None
    assert found(node(15_360, T4, 8, TAINT | {"value": "other"})) is None


def test_nodes_are_chosen_by_the_selectors_of_job_and_administrator_and_the_name_of_the_resource() -> None:
    given = settings(node_selector={"pool": "gold"})
    fields = {"resources": {"gpusPerNode": 1, "gpuResource": "nvidia.com/mig-1g.10gb"}}
    job = parsed(**fields, scheduling={"nodeSelector": {"zone": "a", "pool": "mine"}})
    assert selector_of(job, resolve(job, given), given) == "nvidia.com/mig-1g.10gb.memory,zone=a,pool=gold"
    without = parsed(resources={"gpusPerNode": 0})
    assert selector_of(without, resolve(without, given), given) is None


def test_the_administrator_s_word_counts_before_labels() -> None:
    job, one = parsed(resources={"gpusPerNode": 1}), Gpus(3, 100, 100, A100)
    for given, gpus, expected in (
        (settings(gpu_memory="1Ki"), one, (1024, None, None, A100)),
        (settings(), one, (100, None, 3, A100)),
        (settings(), SMALL_AND_LARGE, (81_920 * MIB, 15_360 * MIB, 2, None)),
        (settings(), None, (None, None, None, None)),
    ):
        config = preflight_config(job, resolve(job, given), given, output_bound=True, gpus=gpus)
        known = (config.gpu_memory, config.least_gpu_memory, config.gpu_nodes, config.gpu_product)
        assert known == expected


@pytest.mark.parametrize("administrator", [{}, {"gpu_memory": "1Ki"}])
def test_preflight_is_given_the_oldest_capability_where_gpus_differ(administrator: dict[str, str]) -> None:
    job, given = parsed(resources={"gpusPerNode": 1}), settings(**administrator)
    for oldest, expected in ((8, (8, None)), (7, (8, 7))):
        gpus = Gpus(2, 100, 100, None, capability=8, least_capability=oldest)
        config = preflight_config(job, resolve(job, given), given, output_bound=True, gpus=gpus)
        assert (config.gpu_capability, config.least_gpu_capability) == expected
