"""Why an attempt failed, and what follows: an ordered chain of checks, of which the first match decides.

A new failure class is a function and its place in `CHECKS`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

from finetune_api.run import ENDINGS, Ending, ExitCode, Retry, RunReport
from finetune_api.status import Reason
from finetune_core import lenient
from finetune_core.decide.logtail import log_tail
from finetune_core.decide.observation import PodView


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed. `retry` says whether another may help, `counted` whether it uses up retry.limit.

    `pause` says whether the first retry waits: a failure may need time to pass, a deletion does not.
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
    job_failure: str | None = None


Check = Callable[[Evidence], Failure | None]


def termination_report(pod: PodView | None) -> RunReport | None:
    """The trainer's report in the termination message; None where there is none, or another program's text."""
    if pod is None or pod.end is None or not pod.end.message.lstrip().startswith("{"):
        return None
    try:
        raw = json.loads(pod.end.message)
    except (ValueError, RecursionError):
        return None
    report, left_out = lenient.read(RunReport, raw)
    return None if "version" in left_out or report == RunReport() else report


def _preempted(evidence: Evidence) -> Failure | None:
    pod = evidence.pod
    if pod is None or not (
        pod.disruption or pod.status_reason in ("Evicted", "Preempted", "Shutdown", "NodeShutdown")
    ):
        return None
    why = pod.disruption or pod.status_reason
    return Failure(
        Reason.PREEMPTED,
        f"the pod {pod.name} was evicted from node {pod.node} ({why}); training resumes from the last checkpoint",
        retry=True,
        counted=False,
    )


def _over_the_jobs_deadline(evidence: Evidence) -> Failure | None:
    """The operator sets no deadline on the Job. Another one would end every attempt, so these are counted."""
    if evidence.job_failure != "DeadlineExceeded":
        return None
    return Failure(
        Reason.KILLED,
        "the attempt was ended by an activeDeadlineSeconds on its Job, which this operator does not set: an admission"
        " policy of the cluster did; ask its administrator for a longer one, or train in less time",
        retry=True,
    )


def _interrupted(evidence: Evidence) -> Failure | None:
    if evidence.own_script or _code(evidence) != ExitCode.INTERRUPTED:
        return None
    return Failure(
        Reason.INTERRUPTED,
        f"the pod was asked to stop and saved a checkpoint{_at_step(evidence)}",
        retry=True,
        counted=False,
    )


def _users_fault(evidence: Evidence) -> Failure | None:
    ending = _ending(evidence)
    if ending is None or ending.retry is not Retry.NEVER:
        return None
    return Failure(ending.reason, _reported_message(evidence), retry=False)


def _pruned(evidence: Evidence) -> Failure | None:
    """The operator itself ended the attempt: no error and no retry."""
    if evidence.own_script or _code(evidence) != ExitCode.PRUNED:
        return None
    return Failure(Reason.PRUNED, _reported_message(evidence), retry=False, counted=False)


def _out_of_memory(evidence: Evidence) -> Failure | None:
    if evidence.pod is None or evidence.pod.end is None or evidence.pod.end.reason != "OOMKilled":
        return None
    limit = f" limit of {evidence.pod.memory_limit}" if evidence.pod.memory_limit else " of its node"
    return Failure(
        Reason.HOST_OUT_OF_MEMORY,
        f"the pod used more than the memory{limit} and was killed; raise spec.resources.limits.memory or lower"
        " spec.training.microBatchSize",
        retry=True,
    )


def _trainers_fault(evidence: Evidence) -> Failure | None:
    ending = _ending(evidence)
    if ending is None or ending.retry is not Retry.COUNTED:
        return None
    return Failure(ending.reason, _reported_message(evidence), retry=True)


def _own_script(evidence: Evidence) -> Failure | None:
    if not evidence.own_script or evidence.pod is None or evidence.pod.end is None:
        return None
    end = evidence.pod.end
    last = f": {tail}" if (tail := log_tail(end.message)) else ""
    return Failure(
        Reason.SCRIPT_FAILED, f"spec.command ended with exit code {end.exit_code}{last}", retry=True
    )


def _killed(evidence: Evidence) -> Failure | None:
    code = _code(evidence)
    if code not in (137, 143):
        return None
    signal = "SIGKILL" if code == 137 else "SIGTERM"
    message = f"the container was ended by {signal} from outside{_on_node(evidence)} before it could save a checkpoint"
    if (
        evidence.report and evidence.report.message
    ):  # of one process of several, by the launcher that outlived it
        message = f"{evidence.report.message}{_on_node(evidence)}"
    return Failure(
        Reason.KILLED,
        message,
        retry=True,
        pause=not (evidence.pod and evidence.pod.deleting),
    )


def _crashed(evidence: Evidence) -> Failure | None:
    code = _code(evidence)
    if code not in (132, 134, 135, 136, 139):
        return None
    return Failure(
        Reason.CRASHED,
        f"the process crashed with signal {code - 128}{_on_node(evidence)}; see its log",
        retry=True,
    )


def _lost(evidence: Evidence) -> Failure | None:
    if evidence.pod is not None and evidence.pod.end is not None:
        return None
    name = f"the pod {evidence.pod.name}" if evidence.pod else "the pod"
    return Failure(
        Reason.POD_LOST,
        f"{name} was deleted{_on_node(evidence)} before it could say how it ended",
        retry=True,
        pause=False,
    )


def _unknown(evidence: Evidence) -> Failure:
    return Failure(
        Reason.UNKNOWN, f"the container ended with exit code {_code(evidence)} and gave no reason", retry=True
    )


CHECKS: tuple[Check, ...] = (
    _preempted,
    _over_the_jobs_deadline,
    _interrupted,
    _pruned,
    _users_fault,
    _out_of_memory,
    _trainers_fault,
    _own_script,
    _killed,
    _crashed,
    _lost,
)


def classify(evidence: Evidence) -> Failure:
    """The first answer of CHECKS; Unknown where none applies."""
    for check in CHECKS:
        if failure := check(evidence):
            return failure
    return _unknown(evidence)


def _ending(evidence: Evidence) -> Ending | None:
    """What the trainer's exit code stands for; a script's codes are its own."""
    known = None if evidence.own_script else next((c for c in ExitCode if c == _code(evidence)), None)
    return ENDINGS[known] if known else None


def _code(evidence: Evidence) -> int | None:
    return evidence.pod.end.exit_code if evidence.pod and evidence.pod.end else None


def _reported_message(evidence: Evidence) -> str:
    if evidence.report and evidence.report.message:
        return evidence.report.message
    log = log_tail(evidence.pod.end.message) if evidence.pod and evidence.pod.end else ""
    return f"the trainer ended with exit code {_code(evidence)}" + (f": {log}" if log else "")


def _at_step(evidence: Evidence) -> str:
    latest = evidence.report.latest if evidence.report else None
    return f" at step {latest.step}" if latest else ""


def _on_node(evidence: Evidence) -> str:
    return f" on node {evidence.pod.node}" if evidence.pod and evidence.pod.node else ""
