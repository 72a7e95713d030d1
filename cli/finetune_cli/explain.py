"""Why a job has failed or does not run: the reason, what the log says, and what to do."""

from collections.abc import Iterator
from typing import Any

from finetune_api.status import AttemptStatus, Phase, TrialState
from finetune_cli.logs import readable
from finetune_cli.remedies import PAGE, remedy_of
from finetune_core.plan.naming import ATTEMPT, PREFLIGHT
from finetune_sdk import Job
from finetune_sdk.errors import ClusterError

Body = dict[str, Any]

LINES = 12
"""Of the log's end."""
_RUNS = 5


def explained(job: Job, runs: list[Job]) -> Body:
    """What is known, as one object: `log` are the last lines of the last attempt, if its pod is still there."""
    reason, message = _cause(job)
    remedy = remedy_of(reason)
    attempts = job.status.attempts
    failed = [one for one in attempts if one.reason and one.exit_code]
    last = failed[-1] if failed else None
    found: Body = {"name": job.name, "phase": job.phase.value, "reason": reason, "message": message}
    if last is not None and last.exit_code is not None:
        found |= {"attempt": last.number, "exitCode": last.exit_code, "node": last.node}
    found["attempts"] = [_described(one) for one in attempts]
    found["log"], found["logMissing"] = _log(job, attempts)
    found["runs"] = [f"{run.name}: {run.reason}: {run.message}" for run in _failed(runs)][:_RUNS]
    if remedy:
        found |= {"remedy": remedy.text.replace("NAME", job.name), "page": f"{PAGE}#{remedy.section}"}
    return found


def lines_of(found: Body) -> Iterator[str]:
    """The same as text."""
    yield f"{found['name']} {found['phase']}: {found['reason']}"
    yield f"  {found['message']}"
    if len(found["attempts"]) > 1:
        yield "attempts:"
        yield from (f"  {line}" for line in found["attempts"])
    if found["runs"]:
        yield "runs that failed:"
        yield from (f"  {line}" for line in found["runs"])
    if found["log"]:
        yield "the end of the log:"
        yield from (f"  {line}" for line in found["log"])
    elif found["logMissing"]:
        yield f"log: {found['logMissing']}"
    if "remedy" in found:
        yield f"what to do: {found['remedy']}"
        yield f"more: {found['page']}"


def needs_explanation(job: Job) -> bool:
    """Whether it has failed, or does not run although it should."""
    return job.phase is Phase.FAILED or (job.phase is Phase.PENDING and remedy_of(job.reason) is not None)


def _cause(job: Job) -> tuple[str, str]:
    """Reason and message; of a job that waits for a retry those of the attempt that failed."""
    last = next((one for one in reversed(job.status.attempts) if one.reason and one.message), None)
    if job.reason == "WaitingToRetry" and last:
        return str(last.reason), str(last.message)
    return job.reason or job.phase.value, job.message


def _described(attempt: AttemptStatus) -> str:
    return f"attempt {attempt.number}: {attempt.reason or 'runs'}" + (
        f": {attempt.message}" if attempt.message else ""
    )


def _log(job: Job, attempts: list[AttemptStatus]) -> tuple[list[str], str]:
    """The last lines of the pod of the last attempt, or of preflight before there is one; or why there are none."""
    preflight = job.status.preflight
    if attempts:
        label, number, of = ATTEMPT, attempts[-1].number, "attempt"
    elif preflight:
        label, number, of = PREFLIGHT, preflight.number, "preflight"
    else:
        return [], ""
    pods = [pod for pod in job.pods() if pod["metadata"]["labels"].get(label) == str(number)]
    if not pods:
        return [], f"the pod of {of} {number} is gone, and its log with it"
    try:
        lines = list(job.log(pods[-1]["metadata"]["name"], tail=LINES))
    except ClusterError as error:
        return [], str(error)
    return [readable(line) for line in lines], "" if lines else "it is empty"


def _failed(runs: list[Job]) -> Iterator[Job]:
    pruned = TrialState.PRUNED.value
    yield from (run for run in runs if run.phase is Phase.FAILED and run.reason != pruned)
