"""Accelerators in requests and limits of stored jobs, and beside the defaults of the administrator."""

from finetune_core.plan.effective import resolve
from finetune_core.plan.workload import plan
from unit.operator.worlds import CREATE, Life, parsed, settings

STORED = {"gpusPerNode": 0, "limits": {"google.com/tpu": "4"}}
SHARE = {"limits": {"nvidia.com/gpumem": "3000"}}


def test_no_attempt_begins_that_would_hold_a_device_for_nothing() -> None:
    life = Life(parsed(resources=STORED))
    assert life.reconcile().action is not CREATE
    assert (life.reason, life.status.attempt) == ("InvalidSpec", None)
    assert life.message.startswith(
        "spec.resources: accelerators in requests and limits are held while nothing"
    )


def test_a_default_of_no_gpus_makes_a_share_of_one_useless() -> None:
    life = Life(parsed(resources=SHARE), settings(gpus_per_node=0))
    assert life.reconcile().action is not CREATE
    assert life.reason == "InvalidSpec"
    assert "does not fit the administrator's defaults" in life.message


def test_a_share_stands_beside_its_gpu() -> None:
    life = Life(parsed(resources=SHARE))
    assert life.reconcile().action is CREATE
    made = plan(life.job, resolve(life.job, life.settings), 1, life.settings, "").job
    (container,) = made["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpumem": "3000", "nvidia.com/gpu": "1"}
