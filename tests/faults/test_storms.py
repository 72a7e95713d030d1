"""Random faults from seeds, and an operator that is killed again and again: all jobs succeed, nothing twice."""

import time
from pathlib import Path
from typing import Any

import pytest

from faults.rig import Rig
from faults.storm import jobs_survive
from faults.test_watches import one_child_each
from finetune_cluster.apiserver import ApiServer
from integration.operator_rig import PATIENCE

Json = dict[str, Any]

_JOBS, _KILLS = 40, 15


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_g10_every_kind_of_job_survives_a_storm_of_faults(
    cluster: ApiServer, tmp_path: Path, seed: int
) -> None:
    jobs_survive(cluster, tmp_path, seed, faults=45)


@pytest.mark.timeout(600)
def test_a2_an_operator_that_is_killed_again_and_again_starts_no_job_twice(found: Rig) -> None:
    names = [found.world.apply(f"job-{number}") for number in range(_JOBS)]
    for number in range(_KILLS):
        time.sleep(1 + number % 3)  # at another place of its start each time
        found.kill()
    found.succeeds(*names, seconds=3 * PATIENCE)
    one_child_each(found, names)
    assert {found.world.status(name)["attempt"] for name in names} == {1}
    found.rests()
