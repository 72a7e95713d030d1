"""What to do next about a job, and what to say of it. Pure: (job, observation, now) → Decision.

A status is written before its action is taken (write-ahead), and every decision can be taken again from the
written status, so the operator may die between any two lines:

    no attempt ──open──► attempt N, no Job ──create──► pending ──► running ──► over
        ▲                                                │ suspend, deadline: mark, then delete the Job
        └── retry after a pause, resume ◄── closed ◄─────┴──────────────────────► Succeeded | Failed
"""

from datetime import datetime, timedelta

from finetune_api.status import AttemptStatus, EffectiveStatus, FineTuneJobStatus, Phase, Reason
from finetune_operator.decide.attempt import during_attempt
from finetune_operator.decide.case import Action, Case, Decision, spoken
from finetune_operator.decide.conditions import Verdict
from finetune_operator.decide.deadlines import deadline_verdict, end_of_children, over_deadline
from finetune_operator.decide.ending import fail
from finetune_operator.decide.images import image_allowed
from finetune_operator.decide.observation import Observation
from finetune_operator.plan.effective import image_of, output_uri_of, resources_of
from finetune_operator.plan.job import Job
from finetune_operator.settings import OperatorSettings

_ATTEMPTS_KEPT = 20
_LOOK_AFTER_CREATE = timedelta(seconds=15)


def finished(status: FineTuneJobStatus) -> bool:
    """Whether the job is over for good. Read from `completionTime`, which is written once."""
    return status.completion_time is not None


def decide(job: Job, seen: Observation, now: datetime, settings: OperatorSettings) -> Decision:
    """The next step of a job's life."""
    case = Case(job, seen, now, settings)
    if finished(case.status):
        return _after_the_end(case)
    if attempt := case.open_attempt:
        outcome = during_attempt(case, attempt)
        return outcome if isinstance(outcome, Decision) else _between_attempts(outcome)
    return _between_attempts(case)


def rejected(status: FineTuneJobStatus, generation: int, message: str, now: datetime) -> FineTuneJobStatus:
    """The status of a job whose spec this operator cannot understand.

    Not an end: a newer operator may understand it, and an older one must not fail what a newer one runs. What has
    ended stays as it ended.
    """
    if finished(status):
        return status
    return spoken(status, generation, Verdict(Phase.PENDING, Reason.INVALID_SPEC, message, stalled=True), now)


def _between_attempts(case: Case) -> Decision:
    """No attempt runs: suspend, wait for the pause to end, or open the next."""
    if any(not child.over and child.attempt <= (case.status.attempt or 0) for child in case.seen.jobs):
        return _stop_strays(case)
    if case.job.spec.suspend:
        message = "suspended by spec.suspend; set it to false to go on"
        return case.say(Verdict(Phase.SUSPENDED, Reason.SUSPENDED, message))
    if over_deadline(case):
        return fail(case, deadline_verdict(case))
    if not image_allowed(image_of(case.job, case.settings), case.settings):
        return fail(case, _refused_image(case))
    if case.status.retry_time and case.now < case.status.retry_time:
        return _waiting(case, case.status.retry_time)
    return _open_attempt(_accept(case))


def _stop_strays(case: Case) -> Decision:
    """The status forgot an attempt whose Job is alive: no other may begin beside it."""
    message = "an attempt that the status does not know is stopped; the next begins after it"
    verdict = Verdict(Phase.PENDING, Reason.STOPPING, message)
    return case.say(verdict, Action.DELETE_CHILDREN, case.now + _LOOK_AFTER_CREATE)


def _open_attempt(case: Case) -> Decision:
    # a Job with a higher number tells of attempts that a lost or restored status forgot: go on from it, not beside it
    number = max([(case.status.attempt or 0) + 1, *(child.attempt for child in case.seen.jobs)])
    attempt = AttemptStatus(number=number, start_time=case.now)
    case = case.update(
        attempt=number,
        attempts=[*case.status.attempts, attempt][-_ATTEMPTS_KEPT:],
        start_time=case.status.start_time or case.now,
        retry_time=None,
    )
    verdict = Verdict(Phase.PENDING, Reason.ACCEPTED, _beginning(case.status, number))
    return case.say(verdict, Action.CREATE_ATTEMPT, case.now + _LOOK_AFTER_CREATE)


def _beginning(status: FineTuneJobStatus, number: int) -> str:
    before = status.attempts[-2] if len(status.attempts) > 1 else None
    why = f" (attempt {before.number} ended: {before.message})" if before and before.message else ""
    return f"attempt {number} begins{why}"


def _accept(case: Case) -> Case:
    """Write out what the defaults become. Once an attempt: an upgraded operator must not restate a running one's."""
    job, settings = case.job, case.settings
    found = case.status.effective or EffectiveStatus()
    effective = found.model_copy(
        update={
            "training": job.spec.resolved_training(),
            "resources": resources_of(job, settings),
            "output_uri": output_uri_of(job),
            "image": image_of(job, settings),
        }
    )
    return case.update(effective=effective)


def _waiting(case: Case, until: datetime) -> Decision:
    last = case.status.attempts[-1]
    message = f"attempt {last.number} ended: {last.message}; the next begins at {until:%H:%M:%S} UTC"
    return case.say(Verdict(Phase.PENDING, Reason.WAITING_TO_RETRY, message), look_again=until)


def _refused_image(case: Case) -> Verdict:
    allowed = ", ".join(case.settings.allowed_images) or "none but the trainer's own"
    return Verdict(
        Phase.FAILED,
        Reason.IMAGE_NOT_ALLOWED,
        f"spec.image: {case.job.spec.image} is not among the images that the administrator allows ({allowed})",
    )


def _after_the_end(case: Case) -> Decision:
    """A finished job is finished; only its children go, when their time has come."""
    finish = case.status.completion_time
    assert finish
    case = _seen(case)
    end = end_of_children(case, finish)
    if end is None or not case.seen.jobs:
        return Decision(case.status)
    if case.now < end:
        return Decision(case.status, look_again=end)
    return Decision(case.status, Action.DELETE_CHILDREN)


def _seen(case: Case) -> Case:
    """Say that a change of the spec was seen: without it, tools that wait by kstatus wait for ever."""
    generation = case.job.generation
    if case.status.observed_generation == generation:
        return case
    conditions = [
        condition.model_copy(update={"observed_generation": generation})
        for condition in case.status.conditions
    ]
    return case.update(observed_generation=generation, conditions=conditions)
