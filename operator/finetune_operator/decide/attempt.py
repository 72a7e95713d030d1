"""An attempt is open: create its Job, say how it goes, stop it, or close it. Pure."""

from datetime import datetime, timedelta

from finetune_api.status import AttemptStatus, Phase, Reason
from finetune_operator.decide.case import Action, Case, Decision
from finetune_operator.decide.conditions import Verdict
from finetune_operator.decide.deadlines import deadline_of, earliest, over_deadline
from finetune_operator.decide.ending import STOP_REASONS, close
from finetune_operator.decide.observation import PodView
from finetune_operator.decide.pending import why_pending
from finetune_operator.decide.reports import with_attempt_report, with_report, with_resolved_image

_LOOK_WHILE_PENDING = timedelta(seconds=15)
_USUAL_START = timedelta(seconds=3)


def during_attempt(case: Case, attempt: AttemptStatus) -> Decision | Case:
    """The next step of an open attempt; a Case in which no attempt is open when another has to be considered."""
    child, pods = case.seen.job(attempt.number), case.seen.pods_of(attempt.number)
    if child is None and attempt.running_time is None and all(pod.never_ran for pod in pods):
        return _without_job(case, attempt)
    attempt = _observed(attempt, pods)
    if (child is None or child.over) and all(pod.over for pod in pods):
        return close(case, attempt)
    if reason := _stop_reason(case, attempt):
        return _stop(case, attempt.model_copy(update={"reason": reason.value}))
    return _ongoing(case, attempt)


def _without_job(case: Case, attempt: AttemptStatus) -> Decision | Case:
    """The Job is not made yet, or was deleted before its pod ran: make it, unless it is no longer wanted."""
    if case.job.spec.suspend or attempt.reason == Reason.SUSPENDED:
        update = {"reason": Reason.SUSPENDED.value, "counted": False, "end_time": case.now}
        return case.put(attempt.model_copy(update=update))
    return Decision(case.status, Action.CREATE_ATTEMPT, case.now + _LOOK_WHILE_PENDING)


def _observed(attempt: AttemptStatus, pods: tuple[PodView, ...]) -> AttemptStatus:
    """The attempt's record with the node, and the time at which its container started."""
    pod = next((pod for pod in pods if pod.started or pod.node), None)
    if pod is None:
        return attempt
    running = attempt.running_time or pod.started
    return attempt.model_copy(update={"node": pod.node or attempt.node, "running_time": running})


def _stop_reason(case: Case, attempt: AttemptStatus) -> Reason | None:
    """Why the attempt has to stop. Once marked it stays so, though spec.suspend may have been taken back."""
    if attempt.reason in STOP_REASONS:
        return Reason(attempt.reason)
    if case.job.spec.suspend:
        return Reason.SUSPENDED
    return Reason.DEADLINE_EXCEEDED if over_deadline(case, attempt) else None


def _stop(case: Case, attempt: AttemptStatus) -> Decision:
    field = "spec.suspend" if attempt.reason == Reason.SUSPENDED else "spec.activeDeadlineSeconds"
    message = f"attempt {attempt.number} saves a checkpoint and stops ({field})"
    verdict = Verdict(Phase.PENDING, Reason.STOPPING, message)
    return case.put(attempt).say(verdict, Action.STOP_ATTEMPT, case.now + _LOOK_WHILE_PENDING)


def _ongoing(case: Case, attempt: AttemptStatus) -> Decision:
    pods = case.seen.pods_of(attempt.number)
    if any(pod.over and not pod.never_ran for pod in pods) and all(pod.over for pod in pods):
        # its end is news only once the Job controller has taken note of it: until then nothing else can be said
        return Decision(case.status, look_again=case.now + _LOOK_WHILE_PENDING)
    pod = next((pod for pod in pods if pod.started and not pod.over), None)
    if pod is None:
        return _pending(case, attempt)
    case, attempt, progress_due = _with_progress(case, attempt)
    case = _with_image(case.put(attempt), pods)
    return case.say(_runs(attempt, pod), look_again=earliest(progress_due, deadline_of(case, attempt)))


def _runs(attempt: AttemptStatus, pod: PodView) -> Verdict:
    """A pod on a dead node is deleted by nobody but the node's deletion, so that has to be said."""
    if pod.deleting:
        message = (
            f"the pod {pod.name} was asked to stop and has not ended yet; if its node is lost,"
            f" kubectl delete node {pod.node} lets training go on elsewhere"
        )
        return Verdict(Phase.RUNNING, Reason.STOPPING, message)
    return Verdict(Phase.RUNNING, Reason.RUNNING, f"attempt {attempt.number} trains on node {attempt.node}")


def _pending(case: Case, attempt: AttemptStatus) -> Decision:
    pending = why_pending(case, attempt)
    begun = attempt.start_time or case.now
    if pending.reason is Reason.STARTING and case.now < begun + _USUAL_START:
        # a start that takes as long as starts do is told once: fewer writes, same news
        return Decision(case.status, look_again=begun + _USUAL_START)
    verdict = Verdict(Phase.PENDING, pending.reason, pending.message)
    return case.put(attempt).say(verdict, look_again=case.now + _LOOK_WHILE_PENDING)


def _with_progress(case: Case, attempt: AttemptStatus) -> tuple[Case, AttemptStatus, datetime | None]:
    """Take up the newest report, or say when it may be: progress costs at most one write per interval."""
    report, time = case.seen.report_of(attempt.number), case.seen.report_time
    if report is None or time is None:
        return case, attempt, None
    written = case.status.progress.last_update_time if case.status.progress else None
    if written and time <= written:
        return case, attempt, None
    due = written + timedelta(seconds=case.settings.progress_interval) if written else time
    if case.now < due:
        return case, attempt, due
    case = case.with_status(with_report(case.status, report, time))
    return case, with_attempt_report(attempt, report), None


def _with_image(case: Case, pods: tuple[PodView, ...]) -> Case:
    """Record the digest of the image that runs."""
    image = next((pod.image_id for pod in pods if pod.image_id), None)
    if image is None:
        return case
    return case.with_status(with_resolved_image(case.status, image))
