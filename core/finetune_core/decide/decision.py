"""What to do next about a FineTuneJob. Pure: (job, observation, now) → Decision.

A status is written before its action is taken (write-ahead), and every decision can be taken again from the
written status, so the operator may die between any two lines:

    preflight (preflight.py), where GPUs are asked for, then
    no attempt ──open──► attempt N, no Job ──create──► pending ──► running ──► ended
        ▲                                                │ suspend, deadline: mark, then delete the Job
        └── retry after a pause, resume ◄── closed ◄─────┴──────────────────────► Succeeded | Failed
"""

from datetime import datetime, timedelta

from finetune_api.status import (
    ATTEMPTS_KEPT,
    LARGEST_ATTEMPT,
    AttemptStatus,
    EffectiveStatus,
    FineTuneJobStatus,
    Phase,
    Reason,
)
from finetune_core.decide.actions import Action, Decision
from finetune_core.decide.allowed import why_not_allowed
from finetune_core.decide.attempt import during_attempt
from finetune_core.decide.claims import unseen, why_not_claimed, with_claimed_devices
from finetune_core.decide.conditions import Verdict
from finetune_core.decide.context import Context, with_verdict
from finetune_core.decide.deadlines import LONGEST_PAUSE, deadline_verdict, end_of_children, over_deadline
from finetune_core.decide.ending import fail
from finetune_core.decide.host_memory import next_micro_batch_size
from finetune_core.decide.images import image_allowed
from finetune_core.decide.nodes import with_excluded_nodes
from finetune_core.decide.observation import JobView, Observation, OutputHolder
from finetune_core.decide.parents import active_seconds
from finetune_core.decide.preflight import awaits_preflight, begun, during_preflight, open_preflight
from finetune_core.decide.shared import why_not_shared
from finetune_core.decide.starting import USUAL_START
from finetune_core.plan.effective import Resolved, conflict_of
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.kueue import faults_in
from finetune_core.settings import OperatorSettings

_REQUEUE_WHILE_WAITING = timedelta(seconds=15)
_REQUEUE_WHILE_HELD = timedelta(seconds=60)

_RUNS_BEGIN = "its runs begin"
_TOO_MANY_ATTEMPTS = f"attempt {LARGEST_ATTEMPT} was the last that can be counted; create a new FineTuneJob"


def finished(status: FineTuneJobStatus) -> bool:
    """Whether the job has ended. Read from `completionTime`, which is written once."""
    return status.completion_time is not None


def decide(
    job: FineTuneJob, resolved: Resolved, observation: Observation, now: datetime, settings: OperatorSettings
) -> Decision:
    """The next step of a job's life."""
    context = Context(job, resolved, observation, now, settings)
    if finished(context.status):
        return _after_the_end(context)
    if preflight := context.open_preflight:
        checked = during_preflight(context, preflight)
        return checked if isinstance(checked, Decision) else _between_attempts(checked)
    if attempt := context.open_attempt:
        if context.status.attempt != attempt.number:  # somebody edited it
            context = context.update(attempt=attempt.number)
        outcome = during_attempt(context, attempt)
        return outcome if isinstance(outcome, Decision) else _between_attempts(outcome)
    return _between_attempts(context)


def rejected(status: FineTuneJobStatus, generation: int, message: str, now: datetime) -> FineTuneJobStatus:
    """The status of a job whose spec this operator cannot understand.

    Not an end: a newer operator may understand it, and an older one must not fail what a newer one runs. What has
    ended stays as it ended.
    """
    if finished(status):
        return status
    return with_verdict(
        status, generation, Verdict(Phase.PENDING, Reason.INVALID_SPEC, message, stalled=True), now
    )


def _between_attempts(context: Context) -> Decision:
    """No attempt runs: suspend, wait for the pause to end, or open the next."""
    strays = [
        child
        for child in context.observation.jobs
        if not child.finished and child.attempt <= (context.status.attempt or 0)
    ]
    if any(not _on_lost_nodes(context, child) for child in strays):
        return _stop_strays(context, strays)
    if context.job.spec.suspend:
        message = "suspended by spec.suspend; set it to false to resume"
        return context.conclude(Verdict(Phase.SUSPENDED, Reason.SUSPENDED, message))
    if over_deadline(context):
        return fail(context, deadline_verdict(context))
    if not image_allowed(context.resolved.image, context.settings):
        return fail(context, refused_image(context.job, context.settings))
    if stalled := why_stalled(context.job, context.resolved, context.settings):
        return context.conclude(stalled)
    if fault := why_not_claimed(context):
        return context.conclude(fault, requeue_at=context.now + _REQUEUE_WHILE_WAITING)
    if until := _not_before(context):
        return _waiting(context, until)
    if held := _why_held(context):
        return context.conclude(held, requeue_at=context.now + _REQUEUE_WHILE_HELD)
    return _begin(_accept(context))


def _not_before(context: Context) -> datetime | None:
    """When the pause after a failure ends; where templates have to be read first, now: that is the next visit."""
    retry = context.status.retry_time
    if retry and context.now < retry < context.now + 2 * LONGEST_PAUSE:
        return retry  # a later time was written by a clock that was ahead
    return context.now if unseen(context) else None


def _why_held(context: Context) -> Verdict | None:
    """Why the attempt must not begin: its claims, or another job, whose model it could not replace at its end."""
    if alone := why_not_shared(context):
        return Verdict(Phase.PENDING, Reason.CLAIM_NOT_SHARED, alone, stalled=True)
    if holder := context.observation.output_holder:
        message = (
            f"output.uri {_common(context.resolved.output_uri, holder)} FineTuneJob {holder.name}, which has not"
            " ended; wait for it, delete it, or create this job with another output.uri"
        )
        return Verdict(Phase.PENDING, Reason.OUTPUT_TAKEN, message)
    return None


def _common(uri: str, holder: OutputHolder) -> str:
    if uri == holder.uri:
        return f"{uri} is also that of"
    relation = "is inside" if uri.startswith(f"{holder.uri}/") else "contains"
    return f"{uri} {relation} {holder.uri}, the output.uri of"


def _begin(context: Context) -> Decision:
    """Check a job that has not begun; begin the next attempt, but of a parent without runs, whose runs come first."""
    if not context.observation.jobs and awaits_preflight(context.job, context.resolved, context.settings):
        return open_preflight(context)
    if context.job.is_parent and not begun(context.status):
        return context.conclude(Verdict(Phase.PENDING, Reason.ACCEPTED, _RUNS_BEGIN), requeue_at=context.now)
    return _open_attempt(context)


def why_stalled(job: FineTuneJob, resolved: Resolved, settings: OperatorSettings) -> Verdict | None:
    """Why the job cannot run until its spec or the administrator's settings change."""
    if conflict := conflict_of(job, resolved.resources, settings):
        message = f"{conflict}; suspend the job, change spec.resources, and set spec.suspend to false"
        return Verdict(Phase.PENDING, Reason.INVALID_SPEC, message, stalled=True)
    if unread := next(faults_in(job.kueue_labels, job.kueue_annotations, job.spec), None):
        return Verdict(Phase.PENDING, Reason.INVALID_SPEC, unread, stalled=True)
    if refused := why_not_allowed(job, settings):
        return Verdict(Phase.PENDING, Reason.NOT_ALLOWED, refused, stalled=True)
    return None


def _on_lost_nodes(context: Context, child: JobView) -> bool:
    """Whether a Job is being deleted, and only pods on nodes that do not answer keep it."""
    pods = [pod for pod in context.observation.pods_of(child.attempt) if not pod.finished]
    return child.deleting and bool(pods) and all(pod.unreachable(context.now) for pod in pods)


def _stop_strays(context: Context, strays: list[JobView]) -> Decision:
    """A Job still exists whose attempt is closed, or lost to the status: no other attempt may start beside it."""
    names = ", ".join(child.name for child in strays[:3])
    message = f"waiting for Job {names} of an attempt that has ended to be gone; then the next one starts"
    verdict = Verdict(Phase.PENDING, Reason.STOPPING, message)
    return context.conclude(verdict, Action.DELETE_CHILDREN, context.now + _REQUEUE_WHILE_WAITING)


def _open_attempt(context: Context) -> Decision:
    # a Job with a higher number belongs to an attempt that a restored status lost: continue from its number
    number = max([(context.status.attempt or 0) + 1, *(child.attempt for child in context.observation.jobs)])
    if number > LARGEST_ATTEMPT:
        return fail(context, Verdict(Phase.FAILED, Reason.UNKNOWN, _TOO_MANY_ATTEMPTS))
    if context.job.is_parent and context.status.attempt is None:
        context = context.update(active_seconds=active_seconds(context.status, context.now))
    attempt = AttemptStatus(
        number=number, start_time=context.now, micro_batch_size=next_micro_batch_size(context.status)
    )
    context = with_excluded_nodes(context)
    context = context.update(
        attempt=number,
        attempts=[*context.status.attempts, attempt][-ATTEMPTS_KEPT:],
        start_time=context.status.start_time or context.now,
        retry_time=None,
    )
    verdict = Verdict(Phase.PENDING, Reason.ACCEPTED, _beginning(context.status, number))
    return context.conclude(verdict, Action.CREATE_ATTEMPT, context.now + USUAL_START)


def _beginning(status: FineTuneJobStatus, number: int) -> str:
    before = status.attempts[-2] if len(status.attempts) > 1 else None
    why = f" (attempt {before.number} ended: {before.message})" if before and before.message else ""
    if before is None and status.preflight and status.preflight.message:
        why = f" (preflight: {status.preflight.message})"
    return f"attempt {number} begins{why}"


def _accept(context: Context) -> Context:
    """Write out what the defaults become. Once an attempt: an upgraded operator must not restate a running one's."""
    job, resolved = context.job, context.resolved
    found = context.status.effective or EffectiveStatus()
    effective = found.model_copy(
        update={
            "training": job.spec.resolved_training(),
            "resources": with_claimed_devices(context),
            "output_uri": resolved.output_uri,
            "image": resolved.image,
        }
    )
    return context.update(effective=effective)


def _waiting(context: Context, until: datetime) -> Decision:
    attempts, preflight = context.status.attempts, context.status.preflight
    ended = "preflight ended"
    if attempts:
        ended = f"attempt {attempts[-1].number} ended: {attempts[-1].message}"
    elif preflight:
        ended = f"preflight {preflight.number} ended: {preflight.message}"
    message = f"{ended}; the next begins at {until:%H:%M:%S} UTC"
    return context.conclude(Verdict(Phase.PENDING, Reason.WAITING_TO_RETRY, message), requeue_at=until)


def refused_image(job: FineTuneJob, settings: OperatorSettings) -> Verdict:
    """The verdict on a job whose image the administrator does not allow."""
    allowed = ", ".join(settings.allowed_images) or "none but the trainer image and the script image"
    return Verdict(
        Phase.FAILED,
        Reason.IMAGE_NOT_ALLOWED,
        f"spec.image: {job.spec.image} is not among the images that the administrator allows ({allowed})",
    )


def _after_the_end(context: Context) -> Decision:
    """A finished job does not change; only its children are deleted after the TTL."""
    finish = context.status.completion_time
    assert finish
    context = _with_observed_generation(context)
    end = end_of_children(context, finish)
    if any(pod.only_companions_run and not pod.deleting for pod in context.observation.pods):
        return Decision(context.status, Action.STOP_ATTEMPT)
    if end is None or not (context.observation.jobs or context.observation.preflight_jobs):
        return Decision(context.status)
    if context.now < end:
        return Decision(context.status, requeue_at=end)
    return Decision(context.status, Action.DELETE_CHILDREN)


def _with_observed_generation(context: Context) -> Context:
    """Set observedGeneration after a change of the spec: tools that use kstatus wait for it."""
    generation = context.job.generation
    if context.status.observed_generation == generation:
        return context
    conditions = [
        condition.model_copy(update={"observed_generation": generation})
        for condition in context.status.conditions
    ]
    return context.update(observed_generation=generation, conditions=conditions)
