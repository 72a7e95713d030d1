"""The end of an attempt: success, a requested stop, or a failure. Pure."""

from dataclasses import replace

from finetune_api.base import MESSAGE_LENGTH
from finetune_api.run import RunReport
from finetune_api.status import AttemptStatus, FineTuneJobStatus, Phase, Reason
from finetune_core.decide.actions import Decision
from finetune_core.decide.conditions import Verdict
from finetune_core.decide.context import Context, seconds_between
from finetune_core.decide.deadlines import (
    counted_failures,
    deadline_verdict,
    end_of_children,
    ended_by_our_clock,
    over_deadline,
    pause_before_free_retry,
    pause_before_retry,
)
from finetune_core.decide.display import success_message
from finetune_core.decide.failure import Evidence, Failure, classify, termination_report
from finetune_core.decide.host_memory import with_remedy
from finetune_core.decide.nodes import with_excluded_nodes
from finetune_core.decide.observation import PodView
from finetune_core.decide.pods import apart, first_failing, succeeded
from finetune_core.decide.reports import unverified_model
from finetune_core.decide.usage import lost_steps, newest_report, queued, reported, used_until

FOLDERS = 3
"""Of members that a message names."""
STOP_REASONS = frozenset(
    reason.value
    for reason in (
        Reason.SUSPENDED,
        Reason.DEADLINE_EXCEEDED,
        Reason.STARTUP_DEADLINE_EXCEEDED,
        Reason.PODS_APART,
    )
)
"""Reasons that the operator itself writes on an attempt before it deletes the Job."""
_BY_ITSELF = (Reason.TRAINER_FAULT, Reason.CRASHED, Reason.STALLED, Reason.SCRIPT_FAILED, Reason.UNKNOWN)
"""Failures whose cause lies in the run: at the same step twice they are deterministic."""


def fail(context: Context, verdict: Verdict) -> Decision:
    """End the job with a failure. What its runs trained is kept, although it was not copied or combined."""
    if found := _trained_already(context.status):
        verdict = replace(verdict, message=f"{verdict.message}; {found}")
    context = context.update(completion_time=context.now, retry_time=None)
    return context.conclude(verdict, requeue_at=end_of_children(context, context.now))


def _trained_already(status: FineTuneJobStatus) -> str:
    if status.model:
        return f"the best trial's model is at {status.model.uri}"
    folders = [member.uri for member in status.members if member.uri]
    return (
        f"the models of the members are at {', '.join(folders[:FOLDERS])}{' …' * (len(folders) > FOLDERS)}"
        if folders
        else ""
    )


def close(context: Context, attempt: AttemptStatus) -> Decision | Context:
    """Record how the attempt ended and what follows; a Context if the next attempt may start."""
    pods, own_script = context.observation.pods_of(attempt.number), bool(context.job.spec.command)
    done = succeeded(context, pods)
    unreachable = next((pod for pod in pods if pod.unreachable(context.now)), None)
    pod = done or unreachable or first_failing(pods, own_script=own_script)
    report = termination_report(pod)
    if message := apart(context, attempt.number):
        attempt = attempt.model_copy(update={"reason": Reason.PODS_APART.value, "message": message})
    over = over_deadline(context, attempt)  # the limit may have been raised since it was asked to stop
    context, attempt = _with_last_report(context, attempt, report)
    context, attempt = _with_end(context, attempt, pod)
    stopped = attempt.reason in STOP_REASONS
    # a script that is stopped may end with 0 without a model; our trainer ends with 0 for a whole model only
    unfinished = stopped and (own_script or attempt.reason == Reason.PODS_APART)
    if done and not unfinished:
        return _succeed(context, attempt, report)
    if stopped:
        return _stopped(context, attempt, over=over)
    job = context.observation.job(attempt.number)
    reports = context.nodes == 1 or (
        pod is not None and pod.index == 0
    )  # the first of several speaks for itself
    said = report or (context.observation.report_of(attempt.number) if reports else None)
    evidence = Evidence(
        pod, said, own_script, job.failure if job else None, unreachable=unreachable is not None
    )
    return _failed(context, attempt, with_remedy(context, evidence, classify(evidence)))


def _with_last_report(
    context: Context, attempt: AttemptStatus, report: RunReport | None
) -> tuple[Context, AttemptStatus]:
    last = report or newest_report(context, attempt)
    return reported(context, attempt, last, context.now) if last else (context, attempt)


def _with_end(context: Context, attempt: AttemptStatus, pod: PodView | None) -> tuple[Context, AttemptStatus]:
    end = pod.end if pod else None
    time = ended_by_our_clock(end.finished if end else None, attempt, context.now)
    code = end.exit_code if end and 0 <= end.exit_code <= 255 else None
    node = (pod.node if pod else None) or attempt.node
    attempt = attempt.model_copy(update={"end_time": time, "exit_code": code, "node": node})
    active = (context.status.active_seconds or 0) + seconds_between(attempt.running_time, time)
    context, attempt = used_until(context, attempt, time)
    if attempt.running_time is None:
        context = queued(context, attempt.evicted_time or attempt.start_time, context.now)
    attempt = attempt.model_copy(update={"lost_steps": lost_steps(attempt, context.status)})
    return context.with_attempt(attempt).update(active_seconds=active), attempt


def _succeed(context: Context, attempt: AttemptStatus, report: RunReport | None) -> Decision | Context:
    own_script, uri = bool(context.job.spec.command), context.resolved.output_uri
    model = (
        unverified_model(uri, context.status, context.now)
        if own_script
        else (report.model if report else None)
    )
    if model is None:
        message = (
            "exit code 0 without a model in the report; spec.image is not a trainer image of this version"
        )
        return _failed(context, attempt, Failure(Reason.UNKNOWN, message, retry=False))
    attempt = attempt.model_copy(update={"reason": Reason.SUCCEEDED.value, "counted": False})
    model = model.model_copy(update={"uri": uri})
    context = context.with_attempt(attempt).update(model=model, completion_time=context.now)
    notes = report.notes if report else []
    message = "; ".join([success_message(context.status), *notes])[:MESSAGE_LENGTH]
    verdict = Verdict(Phase.SUCCEEDED, Reason.SUCCEEDED, message)
    return context.conclude(verdict, requeue_at=end_of_children(context, context.now))


def _stopped(context: Context, attempt: AttemptStatus, *, over: bool) -> Decision | Context:
    """The requested stop is complete."""
    if attempt.reason in (Reason.PODS_APART, Reason.STARTUP_DEADLINE_EXCEEDED):
        context = context.with_attempt(attempt.model_copy(update={"counted": False}))
        return fail(context, Verdict(Phase.FAILED, Reason(attempt.reason), attempt.message or ""))
    asked = attempt.reason == Reason.SUSPENDED
    message = "stopped by spec.suspend" if asked else "stopped by spec.activeDeadlineSeconds"
    context = context.with_attempt(attempt.model_copy(update={"message": message, "counted": False}))
    return fail(context, deadline_verdict(context)) if over and not asked else context


def _failed(context: Context, attempt: AttemptStatus, failure: Failure) -> Decision | Context:
    update = {
        "reason": failure.reason.value,
        "message": failure.message[:MESSAGE_LENGTH],
        "counted": failure.counted,
    }
    context = context.with_attempt(attempt.model_copy(update=update))
    if not failure.retry:
        return fail(context, Verdict(Phase.FAILED, failure.reason, failure.message))
    context = with_excluded_nodes(context)
    if not failure.counted:
        pause = pause_before_free_retry(context)
        return context.update(retry_time=context.now + pause) if pause else context
    if earlier := _alike(context, failure):
        both = f"attempts {earlier} and {attempt.number}"
        message = f"{failure.message} ({both} failed the same way at the same step; not retried)"
        return fail(context, Verdict(Phase.FAILED, failure.reason, message))
    retries, limit = counted_failures(context), context.job.spec.retry.limit
    if retries > limit:
        message = f"{failure.message} (attempt {attempt.number}; spec.retry.limit of {limit} reached)"
        return fail(context, Verdict(Phase.FAILED, failure.reason, message))
    wait = failure.pause or retries > 1
    return context.update(
        retries=retries, retry_time=context.now + pause_before_retry(context, retries) if wait else None
    )


def _alike(context: Context, failure: Failure) -> int | None:
    """An earlier attempt that failed for the same reason with the same code at the same step.

    A bug in the trainer has to have the same message too. What comes from outside may happen twice at one step,
    and does not count.
    """
    *earlier, last = context.status.attempts
    if failure.reason not in _BY_ITSELF or last.to_step is None:
        return None
    return next((each.number for each in earlier if _end_of(each) == _end_of(last)), None)


def _end_of(attempt: AttemptStatus) -> tuple[object, ...]:
    said = attempt.message if attempt.reason == Reason.TRAINER_FAULT else None
    return attempt.reason, attempt.exit_code, attempt.to_step, said
