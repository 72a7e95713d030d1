"""What a job says when the API server refuses its children: every answer, in the words of the spec where it can."""

import pytest

from builders import job, stored
from finetune_api.status import AttemptStatus, FineTuneJobStatus, Phase, Reason
from finetune_operator.errors import ApiError, Cause, ForeignObjectError
from finetune_operator.events import refused
from finetune_operator.refusal import may_pass, refusal
from unit.operator.worlds import T0, seconds

POD = "spec.template.spec"


def answer(status: int, *causes: Cause) -> ApiError:
    return ApiError("POST", "/apis/batch/v1/namespaces/a/jobs", status, "what the server says", causes)


def begun(at: float = 0) -> FineTuneJobStatus:
    return FineTuneJobStatus(attempts=[AttemptStatus(number=1, start_time=seconds(at))])


@pytest.mark.parametrize("status", [400, 403, 413, 422])
def test_what_a_second_try_does_not_change_is_reported_at_once(status: int) -> None:
    assert not may_pass(answer(status), begun(), T0)


@pytest.mark.parametrize("status", [401, 404, 405, 408, 409, 410, 418, 429, 500, 501, 502, 503, 504])
def test_every_other_answer_is_reported_if_it_lasts(status: int) -> None:
    assert may_pass(answer(status), begun(), seconds(1))
    assert not may_pass(answer(status), begun(), seconds(2))
    verdict = refusal(answer(status))
    assert (verdict.phase, verdict.reason, verdict.stalled) == (Phase.PENDING, Reason.CHILD_REFUSED, False)
    assert "what the server says" in verdict.message
    assert str(status) in verdict.message


def test_a_name_that_is_taken_is_reported_at_once() -> None:
    conflict = ForeignObjectError("Job", "a")
    assert not may_pass(conflict, begun(), T0)
    assert refusal(conflict).stalled


@pytest.mark.parametrize("status", [413, 422])
def test_what_cannot_become_valid_by_waiting_is_stalled(status: int) -> None:
    assert refusal(answer(status)).stalled


FIELDS = {
    f"{POD}.containers[0].resources.requests": "spec.resources.requests",
    f"{POD}.containers[0].resources.limits[gpu]": "spec.resources.limits[gpu]",
    f"{POD}.nodeSelector": "spec.scheduling.nodeSelector",
    f"{POD}.tolerations[1].effect": "spec.scheduling.tolerations[1].effect",
    f"{POD}.containers[0].env[3].name": "spec.env[3].name",
    f"{POD}.containers[0].image": "spec.image",
}


@pytest.mark.parametrize("theirs", FIELDS)
def test_a_field_of_the_job_is_named_as_the_user_wrote_it(theirs: str) -> None:
    verdict = refusal(answer(422, Cause(theirs, "Invalid value: 4")))
    assert f"{FIELDS[theirs]}: Invalid value: 4" in verdict.message
    assert "template" not in verdict.message


def test_what_may_be_changed_is_said_and_so_is_what_may_not() -> None:
    resources, env = (Cause(f"{POD}.containers[0].{name}", "Invalid") for name in ("resources", "env"))
    assert "spec.suspend: true" in refusal(answer(422, resources)).message
    assert "create a new FineTuneJob" in refusal(answer(422, env)).message
    assert "create a new FineTuneJob" in refusal(answer(422, resources, env)).message


def test_a_field_that_the_spec_does_not_have_keeps_the_servers_sentence() -> None:
    assert "what the server says" in refusal(answer(422, Cause("metadata.labels", "Invalid"))).message


def test_the_event_on_a_refusal_has_one_name_however_often_it_is_posted() -> None:
    body = stored(job())
    first, second = (refused(body, "x" * 5000, seconds(at)).body() for at in (0, 60))
    assert first["metadata"] == second["metadata"]
    assert "generateName" not in first["metadata"]
    assert len(first["message"]) == 1024
