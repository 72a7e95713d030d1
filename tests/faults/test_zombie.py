"""A node does not answer, its attempt begins elsewhere, and then the pod turns out to run on: what it says is too late.

What it writes to the output is fenced by the trainer: `unit/trainer/training/test_crash.py`.
"""

from pathlib import Path
from typing import Any

import pytest

from faults.rig import Rig, rig
from finetune_api.run import RunReport
from finetune_cluster.apiserver import ApiServer
from integration.operator_rig import DONE, MODEL, PATIENCE, PODS
from integration.test_operator_progress import Trainer, authority_of, report
from ports import free_port

Json = dict[str, Any]

_LATE_MODEL = MODEL.model_copy(update={"digest": "sha256:" + "00" * 32})
_LATE: RunReport = DONE.model_copy(update={"model": _LATE_MODEL})


def loses_its_node(found: Rig, name: str) -> str:
    """Attempt 1, whose pod is deleted as the taint manager does, and nobody stops it; the pod's name."""
    found.kubelet.script, found.kubelet.grace = lambda _: None, 10.0**6
    found.world.until_phase(name, "Running")
    pod = found.world.pods(name)[0]
    found.observer.history.lose(pod)
    pod_name = str(pod["metadata"]["name"])
    found.world.rest("DELETE", found.world.at(PODS, pod_name) + "?gracePeriodSeconds=1")
    return pod_name


def reaches(found: Rig, name: str, phase: str) -> Json:
    """Attempt 2."""
    found.world.pod(name, attempt=2)
    status = found.world.until_phase(name, phase, 2 * PATIENCE)
    assert status["attempt"] == 2, status
    return status


@pytest.mark.timeout(300)
@pytest.mark.parametrize("when", ["while its successor runs", "when its successor has succeeded"])
def test_c4_nothing_that_a_zombie_says_takes_effect(cluster: ApiServer, tmp_path: Path, when: str) -> None:
    port, early = free_port(), when.startswith("while")
    where: Json = {
        "progress_url": f"https://127.0.0.1:{port}",
        "progress_port": port,
        "progress_interval": 0.2,
    }
    with rig(cluster, tmp_path, f"zombie-{'early' if early else 'late'}", **where) as found:
        name = found.world.apply()
        zombie = loses_its_node(found, name)
        token = found.world.token(zombie)
        trainer = Trainer(port, authority_of(found.world, name), token)
        if not early:
            found.kubelet.script = lambda pod: (
                0 if pod["metadata"]["labels"]["finetune.dev/attempt"] == "2" else None
            )
        before = reaches(found, name, "Running" if early else "Succeeded")
        lost = before["attempts"][0]
        assert (lost["number"], lost.get("reason")) == (1, "NodeLost")
        assert trainer.post(report(90)) in (401, 403)
        found.world.end(zombie, 0, _LATE.model_dump_json(by_alias=True, exclude_none=True))
        found.settles()
        assert found.world.status(name) == before
        found.kubelet.grace = 0.0  # its node answers again, and takes the pod away
        found.settles()
        assert found.world.status(name) == before
        found.kubelet.script = lambda _: 0
        found.succeeds(name)
        status = found.world.status(name)
        assert status["model"]["digest"] == MODEL.digest
        assert [one["number"] for one in status["attempts"]] == [1, 2]
        found.rests()
