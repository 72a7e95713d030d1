"""The series of one FineTuneJob: a function of its object in the cache. Pure.

Statuses are read part by part: a part that is missing or has another type has no series.
"""

from collections import Counter as Tally
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from typing import Any, NamedTuple

from finetune_api.exposition import Metric
from finetune_api.metrics import ALL, Direction, plain
from finetune_api.status import ENDED, Phase, Reason
from finetune_core.decide.preflight import SKIPPED
from finetune_core.wire import at, items, number, text, time_of
from finetune_operator.metrics.definitions import (
    ATTEMPT,
    BASELINE,
    BEST_VALUE,
    COMPLETED,
    CONDITION,
    CREATED,
    DEADLINE,
    ENSEMBLE_VALUE,
    ETA,
    EVAL_LOSS,
    EVAL_METRIC,
    GAIN,
    GOODPUT,
    GPU_SECONDS,
    IMPROVEMENT,
    INFO,
    LOSS,
    MEMBERS,
    MODEL_METRIC,
    PREFLIGHT,
    PREFLIGHT_MEMORY,
    PROGRESS,
    QUEUED_SECONDS,
    REPORTED,
    REPORTED_METRIC,
    SAVED_SECONDS,
    SEARCH_SECONDS,
    STARTED,
    STATE,
    STEP,
    STEPS_LOST,
    TRIALS,
    TRIALS_PLANNED,
)

Body = dict[str, Any]

_PHASES = frozenset(phase.value for phase in Phase)
_REASONS = frozenset({*(reason.value for reason in Reason), SKIPPED})
ENDS = (
    Reason.SUCCEEDED,
    Reason.IMAGE_NOT_ALLOWED,
    Reason.CHILD_REFUSED,
    Reason.TRIALS_FAILED,
    Reason.MEMBERS_FAILED,
    Reason.DEADLINE_EXCEEDED,
    Reason.STARTUP_DEADLINE_EXCEEDED,
    Reason.CONFIGURATION_ERROR,
    Reason.DATA_ERROR,
    Reason.NOT_FOUND,
    Reason.GPUS_NOT_SEEN,
    Reason.TRAINER_FAULT,
    Reason.OUT_OF_MEMORY,
    Reason.HOST_OUT_OF_MEMORY,
    Reason.DIVERGED,
    Reason.GATE_NOT_PASSED,
    Reason.STORAGE_FAILED,
    Reason.INTERRUPTED,
    Reason.PREEMPTED,
    Reason.EVICTED,
    Reason.REFUSED_BY_NODE,
    Reason.NODE_LOST,
    Reason.POD_LOST,
    Reason.KILLED,
    Reason.CRASHED,
    Reason.STALLED,
    Reason.PEER_LOST,
    Reason.PODS_APART,
    Reason.GPU_FAULT,
    Reason.SCRIPT_FAILED,
    Reason.UNKNOWN,
)
"""Reasons with which an attempt or a job may end."""
_TRIAL_STATES = ("running", "succeeded", "pruned", "failed", "stopped", "deleted")
_COMPARED = {"combined": "combined", "best_member": "bestMember", "mean_member": "meanMember"}


class Figure(NamedTuple):
    """A sample: `labels` are those after namespace and name."""

    metric: Metric
    value: float
    labels: tuple[str, ...] = ()


def figures(body: Body, now: datetime, gpu_seconds: float) -> Iterator[Figure]:
    """A job's samples, the most important first: what follows the 25th is not exposed.

    `gpu_seconds` are those of its containers, or of all its trials or members.
    """
    status = body.get("status")
    yield from _life(body, status)
    yield Figure(GPU_SECONDS, gpu_seconds)
    live = not text(status, "completionTime")
    yield from _progress(status, live=live)
    yield from _deadline(body, status)
    yield from _search(at(status, "trials"))
    yield from _ensemble(status)
    yield from _usage(status)
    yield from _preflight(at(status, "preflight"), live=live)
    yield from _improvement(at(status, "improvement"))
    yield from _metrics(MODEL_METRIC, at(status, "model", "metrics"))
    yield from _metrics(EVAL_METRIC, at(_newest_evaluation(status), "metrics"))
    yield from _metrics(REPORTED_METRIC, at(status, "progress", "metrics"))


def phase_of(body: Body) -> str:
    """The phase; Pending until the operator has seen the job."""
    found = text(body, "status", "phase")
    return found if found in _PHASES else Phase.PENDING.value


def reason_of(status: Any) -> str:
    """The reason of the condition Running, bounded to those that we know."""
    for condition in items(status, "conditions"):
        if at(condition, "type") == "Running":
            return known_reason(text(condition, "reason"))
    return Reason.PENDING.value


def known_reason(found: str | None) -> str:
    """Anybody who may write a status may write any reason; labels are bounded."""
    return found if found in _REASONS else Reason.UNKNOWN.value


def own_gpu_seconds(body: Body, now: datetime) -> float:
    """Seconds for which the containers of the job's attempts ran, times the GPUs that they held."""
    status = body.get("status")
    resources = at(status, "effective", "resources")
    gpus = (number(resources, "gpusPerNode") or 0) * (number(resources, "nodes") or 1)
    return gpus * ((number(status, "activeSeconds") or 0) + _running_seconds(status, now)) if gpus else 0.0


def is_parent(body: Body) -> bool:
    """Whether it is a search or an ensemble: its own attempt holds no GPU."""
    return kind_of(body) in ("Search", "Ensemble")


def kind_of(body: Body) -> str:
    """Training, Script, Search or Ensemble; by the status where the spec is too large for the cache."""
    if at(body, "spec", "search") or at(body, "status", "trials"):
        return "Search"
    if at(body, "spec", "ensemble") or items(body, "status", "members"):
        return "Ensemble"
    return "Script" if at(body, "spec", "command") else "Training"


def queue_of(body: Body) -> str:
    """Kueue's queue; empty for none."""
    return text(body, "spec", "scheduling", "queue") or ""


def _life(body: Body, status: Any) -> Iterator[Figure]:
    objective = at(body, "spec", "objective")
    yield Figure(
        INFO,
        1,
        (
            body["metadata"]["uid"],
            text(body, "spec", "model", "uri") or "",
            next(iter(objective), "") if isinstance(objective, dict) else "",
            kind_of(body),
            queue_of(body),
        ),
    )
    yield Figure(STATE, 1, (phase_of(body), reason_of(status)))
    for condition in items(status, "conditions"):
        if at(condition, "status") == "True" and (kind := text(condition, "type")):
            yield Figure(CONDITION, 1, (kind,))
    yield from _time(CREATED, at(body, "metadata", "creationTimestamp"))
    yield from _time(STARTED, at(status, "startTime"))
    yield from _time(COMPLETED, at(status, "completionTime"))
    yield from _number(ATTEMPT, status, "attempt")


def _progress(status: Any, *, live: bool) -> Iterator[Figure]:
    progress = at(status, "progress")
    if (ratio := progress_ratio(status)) is not None:
        yield Figure(PROGRESS, ratio)
    if live:
        yield from _number(ETA, progress, "etaSeconds")
        yield from _time(REPORTED, at(progress, "lastUpdateTime"))
    yield from _number(STEP, progress, "step")
    yield from _number(LOSS, progress, "loss")
    yield from _number(EVAL_LOSS, _newest_evaluation(status), "evalLoss")


def _usage(status: Any) -> Iterator[Figure]:
    if (ratio := goodput(status)) is not None:
        yield Figure(GOODPUT, ratio)
    yield from _number(QUEUED_SECONDS, at(status, "usage"), "queuedSeconds")
    attempts = items(status, "attempts")
    lost = sum(number(one, "lostSteps") or 0 for one in attempts)
    if lost or len(attempts) > 1:
        yield Figure(STEPS_LOST, lost)


def _preflight(found: Any, *, live: bool) -> Iterator[Figure]:
    if not isinstance(found, dict):
        return
    reason = text(found, "reason")
    yield Figure(PREFLIGHT, 1, (known_reason(reason) if reason else Reason.RUNNING.value,))
    if live:
        yield from _number(PREFLIGHT_MEMORY, at(found, "memory"), "total")


def _improvement(found: Any) -> Iterator[Figure]:
    metric = text(found, "metric") or ""
    if plain(metric) not in ALL:
        return
    yield from _number(BASELINE, found, "from", labels=(metric,))
    sign = 1 if ALL[plain(metric)] is Direction.MAXIMIZE else -1
    if (delta := number(found, "delta")) is not None:
        yield Figure(IMPROVEMENT, sign * delta, (metric, "estimate"))
    edges = sorted(sign * edge for edge in items(found, "ci95") if number({"edge": edge}, "edge") is not None)
    if len(edges) == 2:
        for bound, edge in zip(("low", "high"), edges, strict=True):
            yield Figure(IMPROVEMENT, edge, (metric, bound))


def progress_ratio(status: Any) -> float | None:
    """The share of steps done, or of the trials or members that have ended."""
    total, running, planned = (number(status, "trials", part) for part in ("total", "running", "planned"))
    if total is not None and running is not None and planned:
        return (total - running) / planned
    if members := items(status, "members"):
        return sum(text(one, "state") in ENDED for one in members) / len(members)
    percent = number(status, "progress", "percent")
    return None if percent is None else percent / 100


def goodput(status: Any) -> float | None:
    """As the status has it; without it, as for a script, steps done over steps computed, repeated ones included."""
    if (ratio := number(status, "usage", "goodput")) is not None:
        return ratio
    attempts = items(status, "attempts")
    done = next((step for one in reversed(attempts) if (step := number(one, "toStep")) is not None), 0)
    lost = sum(lost_steps(before, after) for before, after in pairwise(attempts))
    return done / (done + lost) if done else None


def lost_steps(before: Any, after: Any) -> float:
    """Steps that an attempt had reported and the next one had to repeat."""
    reached, resumed = number(before, "toStep"), number(after, "fromStep")
    return 0.0 if reached is None or resumed is None else max(0.0, reached - resumed)


def _deadline(body: Body, status: Any) -> Iterator[Figure]:
    """Of a running attempt; the deadline of a search or an ensemble is one for its runs."""
    limit, running = number(body, "spec", "activeDeadlineSeconds"), _running_since(status)
    if limit is not None and running is not None and not is_parent(body):
        left = limit - (number(status, "activeSeconds") or 0)
        yield Figure(DEADLINE, running.timestamp() + left)


def _running_since(status: Any) -> datetime | None:
    last = next(reversed(items(status, "attempts")), None)
    return None if at(last, "endTime") else time_of(at(last, "runningTime"))


def _running_seconds(status: Any, now: datetime) -> float:
    running = _running_since(status)
    return max(0.0, (now - running).total_seconds()) if running else 0.0


def _newest_evaluation(status: Any) -> Any:
    return next(reversed(items(status, "epochs")), None)


def _search(trials: Any) -> Iterator[Figure]:
    for state in _TRIAL_STATES:
        yield from _number(TRIALS, trials, state, labels=(state.capitalize(),))
    yield from _number(TRIALS_PLANNED, trials, "planned")
    yield from _number(BEST_VALUE, at(trials, "best"), "value", labels=(text(trials, "metric") or "",))
    yield from _number(SEARCH_SECONDS, trials, "deviceSeconds")
    yield from _number(SAVED_SECONDS, trials, "savedSeconds")


def _ensemble(status: Any) -> Iterator[Figure]:
    states = Tally(state for one in items(status, "members") if (state := text(one, "state")))
    for state, count in sorted(states.items()):
        yield Figure(MEMBERS, count, (state,))
    combination = at(status, "model", "combination")
    metric = text(combination, "metric") or ""
    yield from _number(GAIN, combination, "gain")
    for of, field in _COMPARED.items():
        yield from _number(ENSEMBLE_VALUE, combination, field, labels=(metric, of))


def _metrics(metric: Metric, found: Any) -> Iterator[Figure]:
    for name in found if isinstance(found, dict) else ():
        yield from _number(metric, found, name, labels=(name,))


def _number(metric: Metric, value: Any, key: str, labels: tuple[str, ...] = ()) -> Iterator[Figure]:
    if (found := number(value, key)) is not None:
        yield Figure(metric, found, labels)


def _time(metric: Metric, value: Any) -> Iterator[Figure]:
    if moment := time_of(value):
        yield Figure(metric, moment.timestamp())
