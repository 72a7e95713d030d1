"""The pods of an attempt on several nodes: which one says how it ended, and whether they train together. Pure."""

from datetime import UTC, datetime, timedelta

from finetune_api.run import ExitCode
from finetune_api.status import AttemptStatus
from finetune_core.decide.context import Context
from finetune_core.decide.observation import PodView
from finetune_core.plan.nodes import world_size

_FOLLOWS = (ExitCode.INTERRUPTED, ExitCode.PEER_LOST)
"""Codes of a pod that ends because another one did; of a script no code says so."""
_KILLED = (137, 143)
_LONGEST_MEETING = timedelta(minutes=30)
"""After this long processes that have not met give up."""
_EARLY, _LATE = (time.replace(tzinfo=UTC) for time in (datetime.min, datetime.max))


def look_for_each_other(attempt: AttemptStatus, now: datetime) -> bool:
    """Whether the pods of an attempt may need their names: until those that run now have reported a step."""
    # a script names no step to begin from, but the one that it has reached
    reached = attempt.to_step is not None and not attempt.evictions
    if reached or attempt.from_step is not None:
        return False
    return attempt.running_time is None or now < attempt.running_time + _LONGEST_MEETING


def succeeded(context: Context, pods: tuple[PodView, ...]) -> PodView | None:
    """The pod with the report of an attempt that succeeded: the first one, which publishes; with a script all did."""
    done = [pod for pod in pods if pod.end and pod.end.exit_code == 0]
    if context.job.spec.command:
        return done[0] if len({pod.index for pod in done}) >= context.nodes else None
    return next((pod for pod in done if pod.index == 0), None)


def first_failing(pods: tuple[PodView, ...], *, own_script: bool) -> PodView | None:
    """The pod whose end explains that of the attempt.

    Where one pod fails, the others lose their peer, and the Job controller stops them: they end later, and with codes
    that say so.
    """

    def order(pod: PodView) -> tuple[int, datetime, bool, int]:
        code = pod.end.exit_code if pod.end else None
        ended = (pod.end.finished if pod.end else None) or _LATE
        return _rank(pod, own_script=own_script), ended, code in _KILLED, pod.index

    return min(pods, key=order, default=None)


def reporting(pods: tuple[PodView, ...]) -> PodView | None:
    """The newest pod of process zero, which reports for all."""
    return max((pod for pod in pods if pod.index == 0), key=lambda pod: pod.created or _EARLY, default=None)


def _rank(pod: PodView, *, own_script: bool) -> int:
    if pod.end is None:
        return 1 if pod.deleted and pod.started else 5
    if pod.end.exit_code == 0:
        return 4
    if own_script or pod.disruption or pod.end.exit_code not in _FOLLOWS:
        return 0
    return 2 + _FOLLOWS.index(ExitCode(pod.end.exit_code))


def apart(context: Context, attempt: int) -> str | None:
    """Why the pods of an attempt do not train together, though they should; None if nothing says so."""
    if context.nodes == 1 or (report := context.observation.report_of(attempt)) is None:
        return None
    reporters = sorted(context.observation.reporters)
    if len(reporters) > 1:
        return (
            f"the pods {reporters[0]} and {reporters[1]} both report as process zero: every pod trains alone, on all"
            " rows. Start the script with torchrun or accelerate launch, which find the other pods, or let it join them"
            " by RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT"
        )
    found = report.effective.processes if report.effective else None
    effective = context.status.effective
    wanted = world_size(effective.resources) if effective and effective.resources else None
    if context.job.spec.command or None in (found, wanted) or found == wanted:
        return None
    return f"{found} processes train together where {wanted} were planned; spec.image is not a trainer of this version"
