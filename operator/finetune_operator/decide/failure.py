"""Why an attempt failed, and what follows: an ordered chain of checks, the first that applies answers.

A new failure class is a function and its place in `CHECKS`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

from finetune_api.run import ExitCode, RunReport
from finetune_api.status import Reason
from finetune_operator import lenient
from finetune_operator.decide.observation import PodView


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed. `retry` says whether another may help, `counted` whether it uses up retry.limit.

    `pause` says whether the first retry waits: what failed by itself may need time, what was deleted does not.
    """

    reason: Reason
    message: str
    retry: bool
    counted: bool = True
    pause: bool = True


@dataclass(frozen=True)
class Evidence:
    """What is known of a failed attempt."""

    pod: PodView | None
    report: RunReport | None
    own_script: bool
    memory_limit: str | None = None


Check = Callable[[Evidence], Failure | None]

_FATAL = {
    ExitCode.CONFIGURATION: Reason.CONFIGURATION_ERROR,
    ExitCode.DATA: Reason.DATA_ERROR,
    ExitCode.NOT_FOUND: Reason.NOT_FOUND,
    ExitCode.OUT_OF_MEMORY: Reason.OUT_OF_MEMORY,
    ExitCode.DIVERGED: Reason.DIVERGED,
}
_COUNTED = {
    ExitCode.NO_GPU: Reason.GPUS_NOT_SEEN,
    ExitCode.FAULT: Reason.TRAINER_FAULT,
    ExitCode.STORAGE: Reason.STORAGE_FAILED,
}


def report_of(pod: PodView | None) -> RunReport | None:
    """The trainer's report in the termination message; None where there is none, or another program's words."""
    if pod is None or pod.end is None or not pod.end.message.lstrip().startswith("{"):
        return None
    try:
        raw = json.loads(pod.end.message)
    except (ValueError, RecursionError):
        return None
    report, left_out = lenient.read(RunReport, raw)
    return None if "version" in left_out or report == RunReport() else report


def _preempted(seen: Evidence) -> Failure | None:
    pod = seen.pod
    if pod is None or not (
        pod.disruption or pod.status_reason in ("Evicted", "Preempted", "Shutdown", "NodeShutdown")
    ):
        return None
    why = pod.disruption or pod.status_reason
    return Failure(
        Reason.PREEMPTED,
        f"the pod {pod.name} was taken off node {pod.node} ({why}); training goes on from the last checkpoint",
        retry=True,
        counted=False,
    )


def _interrupted(seen: Evidence) -> Failure | None:
    if seen.own_script or _code(seen) != ExitCode.INTERRUPTED:
        return None
    return Failure(
        Reason.INTERRUPTED,
        f"the pod was asked to stop and saved a checkpoint{_at_step(seen)}",
        retry=True,
        counted=False,
    )


def _users_fault(seen: Evidence) -> Failure | None:
    code = _code(seen)
    if seen.own_script or code not in _FATAL:
        return None
    return Failure(_FATAL[ExitCode(code)], _words(seen), retry=False)


def _pruned(seen: Evidence) -> Failure | None:
    """The operator's own doing: no error, and nothing to try again."""
    if seen.own_script or _code(seen) != ExitCode.PRUNED:
        return None
    return Failure(Reason.PRUNED, _words(seen), retry=False, counted=False)


def _out_of_memory(seen: Evidence) -> Failure | None:
    if seen.pod is None or seen.pod.end is None or seen.pod.end.reason != "OOMKilled":
        return None
    limit = f" of {seen.memory_limit}" if seen.memory_limit else " of its node"
    return Failure(
        Reason.HOST_OUT_OF_MEMORY,
        f"the pod used more than the memory{limit} and was killed; raise spec.resources.limits.memory or lower"
        " spec.training.microBatchSize",
        retry=True,
    )


def _trainers_fault(seen: Evidence) -> Failure | None:
    code = _code(seen)
    if seen.own_script or code not in _COUNTED:
        return None
    return Failure(_COUNTED[ExitCode(code)], _words(seen), retry=True)


def _own_script(seen: Evidence) -> Failure | None:
    if not seen.own_script or seen.pod is None or seen.pod.end is None:
        return None
    end = seen.pod.end
    last = f": {end.message.strip()[-600:]}" if end.message.strip() else ""
    return Failure(
        Reason.SCRIPT_FAILED, f"spec.command ended with exit code {end.exit_code}{last}", retry=True
    )


def _killed(seen: Evidence) -> Failure | None:
    code = _code(seen)
    if code not in (137, 143):
        return None
    signal = "SIGKILL" if code == 137 else "SIGTERM"
    told = (
        f"the container was ended by {signal} from outside{_on_node(seen)} before it could save a checkpoint"
    )
    if seen.report and seen.report.message:  # of one process of several, by the launcher that outlived it
        told = f"{seen.report.message}{_on_node(seen)}"
    return Failure(
        Reason.KILLED,
        told,
        retry=True,
        pause=not (seen.pod and seen.pod.deleting),
    )


def _crashed(seen: Evidence) -> Failure | None:
    code = _code(seen)
    if code not in (132, 134, 135, 136, 139):
        return None
    return Failure(
        Reason.CRASHED,
        f"the process crashed with signal {code - 128}{_on_node(seen)}; its log has the last words",
        retry=True,
    )


def _lost(seen: Evidence) -> Failure | None:
    if seen.pod is not None and seen.pod.end is not None:
        return None
    name = f"the pod {seen.pod.name}" if seen.pod else "the pod"
    return Failure(
        Reason.POD_LOST,
        f"{name} was deleted{_on_node(seen)} before it could say how it ended",
        retry=True,
        pause=False,
    )


def _unknown(seen: Evidence) -> Failure:
    return Failure(
        Reason.UNKNOWN, f"the container ended with exit code {_code(seen)} and gave no reason", retry=True
    )


CHECKS: tuple[Check, ...] = (
    _preempted,
    _interrupted,
    _users_fault,
    _pruned,
    _out_of_memory,
    _trainers_fault,
    _own_script,
    _killed,
    _crashed,
    _lost,
)


def classify(seen: Evidence) -> Failure:
    """The first answer of CHECKS; an honest "unknown" where none has one."""
    for check in CHECKS:
        if failure := check(seen):
            return failure
    return _unknown(seen)


def _code(seen: Evidence) -> int | None:
    return seen.pod.end.exit_code if seen.pod and seen.pod.end else None


def _words(seen: Evidence) -> str:
    if seen.report and seen.report.message:
        return seen.report.message
    log = seen.pod.end.message.strip()[-600:] if seen.pod and seen.pod.end else ""
    return f"the trainer ended with exit code {_code(seen)}" + (f": {log}" if log else "")


def _at_step(seen: Evidence) -> str:
    latest = seen.report.latest if seen.report else None
    return f" at step {latest.step}" if latest else ""


def _on_node(seen: Evidence) -> str:
    return f" on node {seen.pod.node}" if seen.pod and seen.pod.node else ""
