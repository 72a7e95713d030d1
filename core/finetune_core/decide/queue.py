"""An attempt whose Job is suspended: by Kueue, which admits and evicts it, or by a person. Pure.

With a Job Kueue keeps its place in the queue, its number of requeues and whether somebody has deactivated it. So an
attempt that is evicted keeps its Job, and resumes from its checkpoint when Kueue lets the Job run again.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from finetune_api.status import AttemptStatus, FineTuneJobStatus, Phase, Reason
from finetune_core.decide.actions import Decision
from finetune_core.decide.conditions import Verdict
from finetune_core.decide.context import Context, seconds_between
from finetune_core.decide.deadlines import ended_by_our_clock
from finetune_core.decide.failure import termination_report
from finetune_core.decide.observation import JobView, PodView, QueueView
from finetune_core.decide.pods import reporting
from finetune_core.decide.usage import lost_steps, reported, used_until
from finetune_core.plan.kueue import PRIORITY

_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=15), timedelta(minutes=5)
_PATIENCE = timedelta(seconds=30)
_LONGEST_ANSWER = 600
_NEVER = ("exceeds", "insufficient quota", "maximum capacity")
"""In Kueue's answers to what no free quota would be enough for."""


def held(context: Context, attempt: AttemptStatus, child: JobView, pods: tuple[PodView, ...]) -> Decision:
    """The decision on an attempt whose Job is suspended."""
    if any(not pod.finished for pod in pods):
        return _stopping(context, attempt, child)
    verdict, due = _why(context, attempt, child), context.now + _pause(context, attempt)
    return context.with_attempt(attempt).conclude(verdict, requeue_at=due)


def _stopping(context: Context, attempt: AttemptStatus, child: JobView) -> Decision:
    message = f"attempt {attempt.number} saves a checkpoint and stops: {_who(context, child)}"
    verdict = Verdict(Phase.PENDING, Reason.STOPPING, message)
    return context.with_attempt(attempt).conclude(verdict, requeue_at=context.now + _FIRST_PAUSE)


def _who(context: Context, child: JobView) -> str:
    queue, view = child.queue, context.observation.queue
    if child.scaled_down:
        return f"somebody has set the parallelism of the Job {child.name} to 0"
    if queue is None:
        return f"somebody has suspended the Job {child.name}"
    return (
        f"queue {queue}: {_cut(view.evicted)}" if view and view.evicted else f"queue {queue} took its place"
    )


def with_eviction(
    context: Context, attempt: AttemptStatus, pods: tuple[PodView, ...]
) -> tuple[Context, AttemptStatus]:
    """Once its pods have ended, an evicted attempt no longer runs: its steps and time are kept, its wait is not.

    Of pods that no operator saw end, the time is counted up to the last report.
    """
    if attempt.running_time is None:
        return context, attempt
    if report := termination_report(reporting(pods)):
        context, attempt = reported(context, attempt, report, context.now)
    ends = [pod.end.finished for pod in pods if pod.end and pod.end.finished]
    end = max(ends) if ends else _last_seen(context, attempt)
    context, attempt = _evicted(context, attempt, ended_by_our_clock(end, attempt, context.now))
    # not before they began, even by a node's clock that is ahead: by this time they are known to be counted
    times = [attempt.evicted_time, *(pod.begun for pod in pods)]
    return context, attempt.model_copy(update={"evicted_time": max(filter(None, times))})


def without_seen_end(
    context: Context, attempt: AttemptStatus, started: datetime
) -> tuple[Context, AttemptStatus]:
    """A newer pod runs, and no operator saw the last one end: its time is counted up to its last report."""
    seen = _last_seen(context, attempt)
    end = min(seen, started) if seen else attempt.running_time
    return _evicted(context, attempt, max(end or started, attempt.running_time or started))


def _last_seen(context: Context, attempt: AttemptStatus) -> datetime | None:
    """When the trainer last reported since it began; what it said before is of other pods, or another attempt."""
    time, begun = context.status.progress and context.status.progress.last_update_time, attempt.running_time
    return time if time and begun and time >= begun else None


def _evicted(context: Context, attempt: AttemptStatus, end: datetime) -> tuple[Context, AttemptStatus]:
    active = (context.status.active_seconds or 0) + seconds_between(attempt.running_time, end)
    context, attempt = used_until(context, attempt, end)
    update = {
        "running_time": None,
        "from_step": None,
        "gpu_seconds": None,
        "evicted_time": end,
        "evictions": (attempt.evictions or 0) + 1,
        "lost_steps": lost_steps(attempt, context.status),
    }
    return context.update(active_seconds=active), attempt.model_copy(update=update)


def _pause(context: Context, attempt: AttemptStatus) -> timedelta:
    """Only the sentence depends on it: the watch says at once when the Job may run."""
    waited = context.now - (attempt.evicted_time or attempt.start_time or context.now)
    return max(_FIRST_PAUSE, min(waited / 10, _LONGEST_PAUSE))


def _why(context: Context, attempt: AttemptStatus, child: JobView) -> Verdict:
    queue, namespace = child.queue, context.job.namespace
    if child.scaled_down:
        command = patch("job", child.name, namespace, "parallelism", str(context.nodes))
        return _pending(
            Reason.QUEUED,
            f"the Job {child.name} has a parallelism of 0, not by this operator; {command} lets training continue",
        )
    if queue is None:
        command = patch("job", child.name, namespace, "suspend", "false")
        message = (
            f"the Job {child.name} is suspended, and not by this operator; {command} lets training continue. Where"
            " Kueue suspends Jobs without a queue, suspend this FineTuneJob and set scheduling.queue"
        )
        return _pending(Reason.QUEUED, message)
    found = _verdict(context, attempt, child, queue, context.observation.queue)
    waits = "evicted, and waits in queue" if attempt.evictions else "waits in queue"
    return replace(found, message=f"{waits} {queue}: {found.message}")


def patch(kind: str, name: str, namespace: str, field: str, value: str) -> str:
    """The command that sets a field of an object's spec."""
    spec = f'{{"spec":{{"{field}":{value}}}}}'
    return f"kubectl patch {kind} {name} -n {namespace} --type merge -p '{spec}'"


def _pending(reason: Reason, message: str) -> Verdict:
    return Verdict(Phase.PENDING, reason, message)


def _verdict(
    context: Context, attempt: AttemptStatus, child: JobView, queue: str, view: QueueView | None
) -> Verdict:
    """Queued where waiting suffices; another reason where somebody has to do something, so that alerts tell."""
    namespace = context.job.namespace
    if view is None:
        return _pending(Reason.QUEUED, f"kubectl describe workloads -n {namespace} shows why")
    if not view.served:
        return _pending(
            Reason.MISSING_OBJECT,
            "no Kueue is installed in this cluster, and nothing admits the job; install Kueue, or suspend the job and"
            " remove scheduling.queue",
        )
    if view.name is None:
        return _not_taken_over(context, attempt, child)
    if not view.active:
        command = patch("workload", view.name, namespace, "active", "true")
        return _pending(
            Reason.QUEUED,
            f"the Workload {view.name} is deactivated{_in_brackets(view)}; {command} lets Kueue admit it again",
        )
    return _answer(view, queue, namespace)


def _not_taken_over(context: Context, attempt: AttemptStatus, child: JobView) -> Verdict:
    since = attempt.evicted_time or attempt.start_time or context.now
    if context.now < since + _PATIENCE:
        return _pending(Reason.QUEUED, "Kueue has not answered yet")
    priority = context.job.kueue_labels.get(PRIORITY)
    too = f", and that there is a WorkloadPriorityClass {priority} ({PRIORITY})" if priority else ""
    return _pending(
        Reason.MISSING_OBJECT,
        f"no Kueue has taken over the Job {child.name}; check that Kueue runs and that its integrations include"
        f" batch/job{too}",
    )


def _in_brackets(view: QueueView) -> str:
    found = view.evicted or view.waiting
    return f" ({_cut(found)})" if found else ""


def _answer(view: QueueView, queue: str, namespace: str) -> Verdict:
    if view.checks:
        return _pending(Reason.QUEUED, f"its quota is reserved; it waits for {_cut(view.checks)}")
    answer = view.waiting or view.evicted
    if answer is None:
        return _pending(Reason.QUEUED, "Kueue has not decided yet")
    reason, remedy = _remedy(answer, queue, namespace)
    return _pending(reason, _cut(answer) + remedy)


def _remedy(answer: str, queue: str, namespace: str) -> tuple[Reason, str]:
    """For what waiting alone does not resolve."""
    lower = answer.lower()
    if "localqueue" in lower and "doesn't exist" in lower:
        return Reason.MISSING_OBJECT, (
            f"; create LocalQueue {queue} in namespace {namespace}, or suspend the job and change scheduling.queue"
            " (kubectl get localqueues lists what there is)"
        )
    if any(words in lower for words in _NEVER):
        return Reason.UNSCHEDULABLE, (
            "; the queue can never admit this job: suspend it and ask for less in resources, or use another queue"
        )
    if "unavailable in clusterqueue" in lower:
        return Reason.UNSCHEDULABLE, (
            "; the queue has no quota for it at all: suspend the job and change resources, or use another queue"
        )
    return Reason.QUEUED, ""


def _cut(text: str) -> str:
    return text.strip().rstrip(".")[:_LONGEST_ANSWER]


def boost_of(status: FineTuneJobStatus, now: datetime, largest: int) -> int:
    """What the priority of a running job is raised by: a point per GPU-minute that a preemption now would lose.

    In twentieths of the largest, so that it does not change with each report; 0 right after a checkpoint.
    """
    lost = unsaved_gpu_minutes(status, now)
    step = max(1, largest // 20)
    return min(int(lost // step) * step, largest)


def unsaved_gpu_minutes(status: FineTuneJobStatus, now: datetime) -> float:
    """Estimated GPU-minutes since the newest checkpoint, by the steps that were reported since the attempt began."""
    attempt = status.attempts[-1] if status.attempts else None
    if attempt is None or attempt.running_time is None or attempt.end_time is not None:
        return 0.0
    ran = seconds_between(attempt.running_time, now)
    begun, step = attempt.from_step or 0, (status.progress.step if status.progress else None) or 0
    saved = status.latest_checkpoint.step if status.latest_checkpoint else begun
    computed, unsaved = step - begun, step - max(begun, saved)
    share = min(1.0, max(0, unsaved) / computed) if computed > 0 else 0.0
    return ran * share * _gpus(status) / 60


def _gpus(status: FineTuneJobStatus) -> int:
    resources = status.effective.resources if status.effective else None
    return (resources.nodes or 1) * max(1, resources.gpus_per_node or 0) if resources else 1
