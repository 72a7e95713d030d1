"""The watch of pods lags behind that of Jobs: a Job has ended before any of its pods was seen."""

import pytest

from unit.operator.test_reconcile_histories import Histories, report_of


@pytest.mark.parametrize("kind", ["plain", "checked"])
@pytest.mark.parametrize("code", [0, 65])
def test_a_job_that_ended_before_its_pod_was_seen_is_recorded_as_its_pod_ended(kind: str, code: int) -> None:
    world = Histories()
    world.apply(kind, "one", None, None, None)
    for watched in ("FineTuneJob", "Job", "Pod"):
        world.deliver(watched, "all")
    world.visit()
    world.cluster.controllers()
    world.cluster.start_pods()
    (pod,) = world.cluster.of("Pod")
    world.cluster.end_pod(pod, code, report_of(pod, code))
    world.cluster.controllers()
    for watched in ("FineTuneJob", "Job"):
        world.deliver(watched, "all")
    world.visit()
    status = world.cluster.objects["FineTuneJob", "one"]["status"]
    world.runner.close()
    if kind == "checked":
        assert (status["preflight"]["number"], status["preflight"]["exitCode"]) == (1, code)
    else:
        assert [one["exitCode"] for one in status["attempts"]] == [code]
        assert status["phase"] == ("Failed" if code else "Succeeded")
