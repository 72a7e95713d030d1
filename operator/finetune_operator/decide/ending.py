"""An attempt is over: success, the stop that was asked for, or a failure. Pure."""

from datetime import datetime

from finetune_api.run import RunReport
from finetune_api.status import AttemptStatus, Phase, Reason
from finetune_operator.decide.case import Case, Decision, seconds_between
from finetune_operator.decide.conditions import Verdict
from finetune_operator.decide.deadlines import (
    deadline_verdict,
    end_of_children,
    pause_before_free_retry,
    pause_before_retry,
)
from finetune_operator.decide.display import success_message
from finetune_operator.decide.failure import Evidence, Failure, classify, report_of
from finetune_operator.decide.observation import PodView
from finetune_operator.decide.reports import unverified_model, with_attempt_report, with_report
from finetune_operator.plan.effective import output_uri_of, resources_of

STOP_REASONS = frozenset({Reason.SUSPENDED.value, Reason.DEADLINE_EXCEEDED.value})
"""Reasons that the operator itself writes on an attempt before it deletes the Job."""


def fail(case: Case, verdict: Verdict) -> Decision:
    """End the job with a failure."""
    case = case.update(completion_time=case.now, retry_time=None)
    return case.say(verdict, look_again=end_of_children(case, case.now))


def close(case: Case, attempt: AttemptStatus) -> Decision | Case:
    """Record how the attempt ended and what follows; a Case when the next attempt has to be considered."""
    pod = _telling_pod(case.seen.pods_of(attempt.number))
    report = report_of(pod)
    case, attempt = _with_last_report(case, attempt, report)
    case, attempt = _with_end(case, attempt, pod)
    stopped = attempt.reason in STOP_REASONS
    # a script that was told to stop may say 0 for having stopped: only our trainer says it for a whole model alone
    if pod and pod.end and pod.end.exit_code == 0 and not (stopped and case.job.spec.command):
        return _succeed(case, attempt, report)
    if stopped:
        return _stopped(case, attempt)
    limits = resources_of(case.job, case.settings).limits or {}
    evidence = Evidence(pod, report, bool(case.job.spec.command), limits.get("memory"))
    return _failed(case, attempt, classify(evidence))


def _telling_pod(pods: tuple[PodView, ...]) -> PodView | None:
    """The pod whose end explains the attempt: one that succeeded, else one that ended, else any."""

    def rank(pod: PodView) -> int:
        if pod.end is None:
            return 2
        return 0 if pod.end.exit_code == 0 else 1

    return min(pods, key=rank, default=None)


def _with_last_report(
    case: Case, attempt: AttemptStatus, report: RunReport | None
) -> tuple[Case, AttemptStatus]:
    last = report or case.seen.report_of(attempt.number)
    if last is None:
        return case, attempt
    status = with_report(case.status, last, case.now)
    return case.with_status(status), with_attempt_report(attempt, last)


def _with_end(case: Case, attempt: AttemptStatus, pod: PodView | None) -> tuple[Case, AttemptStatus]:
    end = pod.end if pod else None
    time: datetime = (end.finished if end else None) or case.now
    code = end.exit_code if end and 0 <= end.exit_code <= 255 else None
    attempt = attempt.model_copy(update={"end_time": time, "exit_code": code})
    active = (case.status.active_seconds or 0) + seconds_between(attempt.running_time, time)
    return case.update(active_seconds=active), attempt


def _succeed(case: Case, attempt: AttemptStatus, report: RunReport | None) -> Decision | Case:
    own_script, uri = bool(case.job.spec.command), output_uri_of(case.job)
    model = unverified_model(uri, case.status, case.now) if own_script else (report.model if report else None)
    if model is None:
        message = "exit code 0 without a report of a model; spec.image is not a trainer of this version"
        return _failed(case, attempt, Failure(Reason.UNKNOWN, message, retry=False))
    attempt = attempt.model_copy(update={"reason": Reason.SUCCEEDED.value, "counted": False})
    model = model.model_copy(update={"uri": uri})
    case = case.put(attempt).update(model=model, completion_time=case.now)
    verdict = Verdict(Phase.SUCCEEDED, Reason.SUCCEEDED, success_message(case.status))
    return case.say(verdict, look_again=end_of_children(case, case.now))


def _stopped(case: Case, attempt: AttemptStatus) -> Decision | Case:
    """The stop that was asked for has been carried out."""
    asked = attempt.reason == Reason.SUSPENDED
    message = "stopped as asked by spec.suspend" if asked else "stopped at spec.activeDeadlineSeconds"
    case = case.put(attempt.model_copy(update={"message": message, "counted": False}))
    return case if asked else fail(case, deadline_verdict(case))


def _failed(case: Case, attempt: AttemptStatus, failure: Failure) -> Decision | Case:
    update = {"reason": failure.reason.value, "message": failure.message[:1024], "counted": failure.counted}
    case = case.put(attempt.model_copy(update=update))
    if not failure.retry:
        return fail(case, Verdict(Phase.FAILED, failure.reason, failure.message))
    if not failure.counted:
        pause = pause_before_free_retry(case)
        return case.update(retry_time=case.now + pause) if pause else case
    if earlier := _alike(case, failure):
        message = (
            f"{failure.message} (attempts {earlier} and {attempt.number} failed alike, so another would too)"
        )
        return fail(case, Verdict(Phase.FAILED, failure.reason, message))
    retries, limit = (case.status.retries or 0) + 1, case.job.spec.retry.limit
    if retries > limit:
        message = f"{failure.message} (attempt {attempt.number}; spec.retry.limit of {limit} is used up)"
        return fail(case, Verdict(Phase.FAILED, failure.reason, message))
    wait = failure.pause or retries > 1
    return case.update(
        retries=retries, retry_time=case.now + pause_before_retry(case, retries) if wait else None
    )


def _alike(case: Case, failure: Failure) -> int | None:
    """The earlier attempt that a fault of the trainer ended at the same step with the same words."""
    *earlier, last = case.status.attempts
    if failure.reason is not Reason.TRAINER_FAULT or last.to_step is None:
        return None
    ends = ((each.number, each.reason, each.to_step, each.message) for each in earlier)
    return next((number for number, *end in ends if end == [last.reason, last.to_step, last.message]), None)
