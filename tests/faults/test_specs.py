"""Random specs: the API server refuses them, or they end, or they say what they wait for and which field to change."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from builders import manifest
from faults.rig import Rig, rig
from faults.specs import specs
from finetune_api.status import Reason
from finetune_cluster.apiserver import ApiServer
from integration.operator_rig import JOBS, Refused, until

Json = dict[str, Any]

_AT_ONCE = 60
_REASONS = {reason.value for reason in Reason}


def open_jobs(found: Rig) -> list[Json]:
    """Those that have not ended."""
    jobs = found.world.rest.items(found.world.at(JOBS))
    return [one for one in jobs if not (one.get("status") or {}).get("completionTime")]


def condition(job: Json, kind: str) -> Json:
    conditions = (job.get("status") or {}).get("conditions", [])
    return next((one for one in conditions if one["type"] == kind), {})


def is_understood(job: Json) -> bool:
    """Whether its status speaks of its spec, gives one of our reasons, and a sentence."""
    status, running = job.get("status") or {}, condition(job, "Running")
    return (
        status.get("observedGeneration") == job["metadata"]["generation"]
        and running.get("reason") in _REASONS
        and bool(running.get("message"))
    )


def waits_for_something(job: Json) -> bool:
    """Whether it waits for what this cluster does not have, and not for the operator."""
    reason = condition(job, "Running").get("reason")
    return reason not in (None, "Accepted", "Starting", "Stopping", "Running", "Preflight", "WaitingToRetry")


def refused(found: Rig, name: str, spec: Json) -> bool:
    """Whether the API server refuses it, which has to name a place in the spec."""
    try:
        found.world.rest("POST", found.world.at(JOBS), manifest(name, spec))
    except Refused as error:
        if error.status not in (400, 422) or "spec" not in str(error):
            raise AssertionError(json.dumps(spec)) from error
        return True
    return False


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1, 2])
def test_e1_random_specs_end_or_are_refused_or_say_what_they_wait_for(
    cluster: ApiServer, tmp_path: Path, seed: int
) -> None:
    came_to: Counter[str] = Counter()
    with rig(cluster, tmp_path, f"random-{seed}") as found:
        for number, spec in enumerate(specs(seed, _AT_ONCE)):
            came_to["refused"] += refused(found, f"job-{number}", spec)

        def all_rest() -> bool:
            return all(is_understood(one) and waits_for_something(one) for one in open_jobs(found))

        try:
            until(all_rest, "every job has ended or says what it waits for", 300)
        except AssertionError as error:
            unclear = [
                one for one in open_jobs(found) if not (is_understood(one) and waits_for_something(one))
            ]
            raise AssertionError(
                f"{error}: {json.dumps(unclear[:3], indent=1)}\n{found.operator.log()}"
            ) from None
        for job in found.world.rest.items(found.world.at(JOBS)):
            assert is_understood(job), job
            status = job["status"]
            came_to[status["phase"]] += 1
            if condition(job, "Running")["reason"] == "InvalidSpec":
                assert condition(job, "Stalled")["status"] == "True", job
                assert "spec." in condition(job, "Running")["message"], job
            if status["phase"] == "Failed":
                assert condition(job, "Failed")["message"], job
        found.rests()
    assert came_to["refused"] >= 20, came_to
    assert came_to["Succeeded"] >= 20, came_to
