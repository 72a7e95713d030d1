"""A trial as a search sees it, read from its FineTuneJob. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from finetune_api.metrics import Direction, direction, plain
from finetune_api.search import ParameterSpec
from finetune_api.status import ENDED, MemberStatus, Phase, Reason, TrialState
from finetune_core.plan.naming import Run
from finetune_core.search.space import Values, values_in
from finetune_core.wire import at, items, number, text, time_of

Body = dict[str, Any]

_MOST_DEVICE_SECONDS = 10**12
"""Of one trial, so that no status that a stranger wrote makes a sum that cannot be stored."""


@dataclass(frozen=True)
class Evaluation:
    """The metric of a search after some epochs."""

    epoch: float
    value: float


@dataclass(frozen=True)
class Trial:
    """A trial, or a member of an ensemble. `value` is that of the published model, or the best one so far."""

    number: int
    name: str
    state: TrialState
    values: Values
    value: float | None = None
    ended: datetime | None = None
    uri: str | None = None
    digest: str | None = None
    suspended: bool = False
    message: str = ""
    seconds: int = 0
    """Seconds of training so far, without a running attempt's."""
    device_seconds: int | None = None
    """The same times its devices, which a change of the resources changes; None where its status does not say."""
    devices: int | None = None
    """Of its newest attempt."""
    running_since: datetime | None = None
    begins: bool = False
    """It was created and has nothing to say yet; a start that takes longer, or waits, says so."""
    evaluations: tuple[Evaluation, ...] = ()

    @property
    def open(self) -> bool:
        """Whether it has not ended."""
        return self.state not in ENDED


@dataclass(frozen=True)
class Repeat:
    """A repetition of a trial with another seed, to confirm it."""

    run: Run
    trial: Trial


def member_of(trial: Trial) -> MemberStatus:
    """As a member of an ensemble."""
    return MemberStatus(
        number=trial.number,
        name=trial.name,
        state=trial.state,
        value=trial.value,
        uri=trial.uri,
        digest=trial.digest,
    )


def trial_of(number_: int, body: Body, parameters: list[ParameterSpec], metric: str) -> Trial:
    """The trial in a FineTuneJob's wire form."""
    attempts = items(body, "status", "attempts")
    last = attempts[-1] if attempts and at(attempts[-1], "endTime") is None else None
    ended = time_of(at(body, "status", "completionTime"))
    value = _value(body, metric)
    state = _state(body, value, ended)
    return Trial(
        number=number_,
        name=body["metadata"]["name"],
        state=state,
        values=values_in(body.get("spec") or {}, parameters),
        value=value,
        ended=ended,
        uri=text(body, "status", "model", "uri"),
        digest=text(body, "status", "model", "digest"),
        suspended=at(body, "spec", "suspend") is True,
        message=_message(body, state, metric),
        seconds=int(number(body, "status", "activeSeconds") or 0),
        device_seconds=_device_seconds(body, last),
        devices=_devices(body),
        running_since=time_of(at(last, "runningTime")),
        begins=_begins(body),
        evaluations=evaluations_in(items(body, "status", "epochs"), metric),
    )


def _device_seconds(body: Body, running: Any) -> int | None:
    used = number(body, "status", "usage", "gpuSeconds")
    if used is None:
        return None
    return max(0, min(int(used - (number(running, "gpuSeconds") or 0)), _MOST_DEVICE_SECONDS))


def _devices(body: Body) -> int | None:
    resources = at(body, "status", "effective", "resources")
    nodes, gpus = (number(resources, name) for name in ("nodes", "gpusPerNode"))
    return max(1, int((nodes or 1) * (gpus or 0))) if resources else None


def evaluations_in(epochs: list[Any], metric: str) -> tuple[Evaluation, ...]:
    """The evaluations of a report or status in wire form; without those in which the metric was undefined."""
    name = plain(metric)
    found = (
        (number(one, "epoch"), number(one, "evalLoss") if name == "loss" else number(one, "metrics", name))
        for one in epochs
    )
    pairs = [Evaluation(epoch, value) for epoch, value in found if epoch is not None and value is not None]
    return tuple(sorted(pairs, key=lambda one: one.epoch))


def _value(body: Body, metric: str) -> float | None:
    """That of the published model; before there is one, the best so far."""
    if at(body, "status", "model") is not None:
        return number(body, "status", "model", "metrics", f"eval_{plain(metric)}")
    return number(body, "status", "bestCheckpoint", "value")


def _message(body: Body, state: TrialState, metric: str) -> str:
    if state is TrialState.FAILED and text(body, "status", "phase") == "Succeeded":
        return f"{metric} is not defined for its model, so it cannot be compared; the log has the reason"
    return text(body, "status", "display", "message") or ""


def _state(body: Body, value: float | None, ended: datetime | None) -> TrialState:
    phase = text(body, "status", "phase")
    if ended is None:
        return {"Running": TrialState.RUNNING, "Suspended": TrialState.SUSPENDED}.get(
            phase or "", TrialState.PENDING
        )
    if phase == "Succeeded":  # a model that cannot be compared is no answer
        return TrialState.FAILED if value is None else TrialState.SUCCEEDED
    conditions = items(body, "status", "conditions")
    failed = next((one for one in conditions if at(one, "type") == "Failed"), None)
    return TrialState.PRUNED if text(failed, "reason") == Reason.PRUNED else TrialState.FAILED


def _begins(body: Body) -> bool:
    """Whether its first attempt was accepted just now, or will be."""
    if number(body, "status", "attempt") not in (None, 1):
        return False  # what it says is why the attempt before ended
    conditions = items(body, "status", "conditions")
    running = next((one for one in conditions if at(one, "type") == "Running"), None)
    return text(running, "reason") in (None, Reason.ACCEPTED)


def waiting(trials: Sequence[Trial]) -> list[str]:
    """What the first of them waits for, as a part of a sentence."""
    found = (one for one in trials if one.state is TrialState.PENDING and one.message and not one.begins)
    return [f"{one.name} waits: {one.message}" for one in islice(found, 1)]


def lasting(run: Trial, phase: Phase | None) -> TrialState:
    """The state of a run for its parent in this phase; while one begins, a parent that runs goes on running.

    So it does not wait between two runs: fewer writes, same news.
    """
    return TrialState.RUNNING if run.begins and phase is Phase.RUNNING else run.state


def better(metric: str, value: float, other: float) -> bool:
    """Whether a value of the metric is better than another."""
    return value > other if direction(metric) is Direction.MAXIMIZE else value < other


def ranking(trials: Sequence[Trial], metric: str) -> list[Trial]:
    """The trials with a model, the best first; among equals the one with the lowest number."""
    sign = -1 if direction(metric) is Direction.MAXIMIZE else 1
    ranked = [
        (sign * trial.value, trial.number, trial)
        for trial in trials
        if trial.state is TrialState.SUCCEEDED and trial.value is not None
    ]
    return [trial for *_, trial in sorted(ranked, key=lambda one: one[:2])]


def best_of(trials: Sequence[Trial], metric: str) -> Trial | None:
    """The best trial with a model."""
    return next(iter(ranking(trials, metric)), None)
