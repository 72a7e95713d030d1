"""Why an attempt failed, and what follows: an ordered chain of checks, of which the first match decides.

A new failure class is a function and its place in `CHECKS`.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from finetune_api.run import ENDINGS, Ending, ExitCode, Retry, RunReport
from finetune_api.status import Reason
from finetune_core import lenient
from finetune_core.decide.logtail import log_tail
from finetune_core.decide.observation import PodView
from finetune_core.decide.quantity import readable

_BY_NODE = ("Preempted", "Shutdown", "NodeShutdown")
_BY_DEADLINE = ("DeadlineExceeded",)
_BY_NODE_CONTROLLERS = ("DeletionByTaintManager", "DeletionByPodGC")
_SIGNALS = {
    4: "illegal instruction",
    6: "aborted",
    7: "bus error",
    8: "arithmetic error",
    11: "segmentation fault",
}
_CLEAR_CODES = {code for code, ending in ENDINGS.items() if ending.retry is Retry.NEVER} | {
    ExitCode.PEER_LOST
}
"""Codes of which the trainer itself says why."""
_XID = re.compile(r"\bXid\b\s*(\(PCI[^)\n]*\))?[:=\s]*\d{1,3}\b")
_COMMUNICATION = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"Watchdog caught collective operation timeout",
        r"\bNCCL\b[^\n]*\b(timed? ?out|timeout|remote process exited|unhandled system error)\b",
        r"\b(RendezvousTimeoutError|RendezvousClosedError|RendezvousConnectionError)\b",
        r"\bDistStoreError\b|\bDistNetworkError\b",
        r"\bgloo\b[^\n]*\b(connection (closed|reset)|timed? ?out|timeout)\b",
        r"another process of this run was lost",
    )
)
"""What torch writes when a process of a run is gone or silent."""


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
    unreachable: bool = False
    """Its node no longer answers."""


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


def _node_lost(evidence: Evidence) -> Failure | None:
    """The node no longer answers, or its object is gone: nobody will ever say how the pod ended."""
    pod = evidence.pod
    if pod is None or pod.end is not None:
        return None
    if not (evidence.unreachable or (pod.deleted and pod.disruption in _BY_NODE_CONTROLLERS)):
        return None
    return Failure(
        Reason.NODE_LOST,
        f"node {pod.node} was lost with the pod {pod.name}; training resumes from the last checkpoint",
        retry=True,
        counted=False,
    )


def _evicted(evidence: Evidence) -> Failure | None:
    """The kubelet sets DisruptionTarget when its node is short of something, but not when the pod passed a limit."""
    pod = evidence.pod
    if pod is None or pod.disruption or pod.status_reason != "Evicted":
        return None
    return Failure(
        Reason.EVICTED,
        f"the pod {pod.name} was evicted{_on_node(evidence)} because it used more than it may"
        f"{_in_its_words(pod)}; raise spec.resources.limits.ephemeral-storage, or write less to /tmp and $HOME",
        retry=True,
    )


def _refused(evidence: Evidence) -> Failure | None:
    """Phase Failed without a container: the kubelet did not admit the pod."""
    pod = evidence.pod
    if pod is None or pod.phase != "Failed" or pod.deleted or pod.started or pod.end:
        return None
    if pod.disruption or pod.status_reason in (*_BY_NODE, *_BY_DEADLINE):
        return None
    return Failure(
        Reason.REFUSED_BY_NODE,
        f"node {pod.node} refused the pod {pod.name}: {pod.status_reason or 'no reason given'}{_in_its_words(pod)};"
        " the next attempt runs elsewhere if it can",
        retry=True,
        counted=False,
    )


def _in_its_words(pod: PodView) -> str:
    said = " ".join((pod.status_message or "").split()).rstrip(".")
    return f" ({said[:400]})" if said else ""


def _preempted(evidence: Evidence) -> Failure | None:
    pod = evidence.pod
    if pod is None or not (pod.disruption or pod.status_reason in _BY_NODE):
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
    pod = evidence.pod
    on_pod = pod is not None and pod.status_reason in _BY_DEADLINE
    if evidence.job_failure != "DeadlineExceeded" and not on_pod:
        return None
    where = "pod" if on_pod else "Job"
    return Failure(
        Reason.KILLED,
        f"the attempt was ended by an activeDeadlineSeconds on its {where}, which this operator does not set: an"
        " admission policy of the cluster did; ask its administrator for a longer one, or train in less time",
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
        f"the pod used more than the memory{limit} and was killed{_peak(evidence)}; raise spec.resources.limits.memory"
        " or lower spec.training.microBatchSize",
        retry=True,
    )


def _peak(evidence: Evidence) -> str:
    progress = evidence.report.progress if evidence.report else None
    peak = progress.host_memory_bytes if progress else None
    return f" (the last measured peak was {readable(peak)})" if peak else ""


def _by_the_log(evidence: Evidence) -> Failure | None:
    """What the last lines say of a GPU or of the network between processes, whatever the exit code."""
    said = _words(evidence)
    if _code(evidence) in (None, 0) or not said:
        return None
    if found := _XID.search(said):
        return Failure(
            Reason.GPU_FAULT,
            f"the GPU's driver reported {found.group(0)}{_on_node(evidence)}; if it happens again there, the node needs"
            " its administrator (dmesg, nvidia-smi -q)",
            retry=True,
        )
    found = next((found for pattern in _COMMUNICATION if (found := pattern.search(said))), None)
    if found is None or _code(evidence) in _CLEAR_CODES:
        return None
    line = next((line for line in said.splitlines() if found.group(0) in line), found.group(0))
    return Failure(
        Reason.PEER_LOST,
        f"the processes lost each other{_on_node(evidence)}: {line.strip()[:400]}",
        retry=True,
    )


def _words(evidence: Evidence) -> str:
    """Message and traceback of the report, or the log's last lines where there is no report."""
    report = evidence.report
    if report and (report.message or report.traceback) and report.exit_code is not None:
        return f"{report.message}\n{report.traceback or ''}"
    return evidence.pod.end.message if evidence.pod and evidence.pod.end else ""


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
    signal = (_code(evidence) or 0) - 128
    if signal not in _SIGNALS:
        return None
    where = f"{_on_node(evidence)}{_last_words(evidence)}"
    return Failure(
        Reason.CRASHED, f"the process crashed with signal {signal} ({_SIGNALS[signal]}){where}", retry=True
    )


def _last_words(evidence: Evidence) -> str:
    """Of the container's log, where no report took its place."""
    message = evidence.pod.end.message if evidence.pod and evidence.pod.end else ""
    said = "" if message.lstrip().startswith("{") else log_tail(message)
    return f": {said}" if said else "; see its log"


def _lost(evidence: Evidence) -> Failure | None:
    pod = evidence.pod
    if pod is not None and pod.end is not None:
        return None
    if pod is None:
        # perhaps it succeeded: the next attempt finds a model that is published, and ends in seconds
        return Failure(
            Reason.POD_LOST,
            "the pod was deleted before anybody saw how it ended; the next attempt looks for its model first",
            retry=True,
            counted=False,
            pause=False,
        )
    ended = "was deleted" if pod.deleted else f"failed{_reason_of(pod)}"
    return Failure(
        Reason.POD_LOST,
        f"the pod {pod.name} {ended}{_on_node(evidence)} before it could say how it ended",
        retry=True,
        pause=not pod.deleted,
    )


def _reason_of(pod: PodView) -> str:
    return f" ({pod.status_reason}{_in_its_words(pod)})" if pod.status_reason else ""


def _unknown(evidence: Evidence) -> Failure:
    return Failure(
        Reason.UNKNOWN, f"the container ended with exit code {_code(evidence)} and gave no reason", retry=True
    )


CHECKS: tuple[Check, ...] = (
    _node_lost,
    _evicted,
    _preempted,
    _over_the_jobs_deadline,
    _refused,
    _interrupted,
    _pruned,
    _users_fault,
    _out_of_memory,
    _by_the_log,
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
