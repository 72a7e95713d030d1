"""A status stays under its limit, whatever a trainer reports."""

import json
from datetime import UTC, datetime

from finetune_api.status import AttemptStatus, EffectiveStatus, EpochStatus, FineTuneJobStatus
from finetune_core.decide.size import LIMIT, shrink_to_limit

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def size(status: FineTuneJobStatus) -> int:
    return len(json.dumps(status.to_json()).encode())


def epochs(count: int, metrics: int) -> list[EpochStatus]:
    values = {f"metric_of_a_long_name_{number:02}": 0.123456789 for number in range(metrics)}
    return [EpochStatus(epoch=step, step=step, metrics=values) for step in range(count)]


def test_a_usual_status_is_left_as_it_is() -> None:
    status = FineTuneJobStatus(epochs=epochs(50, 3))
    assert shrink_to_limit(status) is status


def test_the_oldest_evaluations_give_way_and_the_newest_stays() -> None:
    status = FineTuneJobStatus(epochs=epochs(50, 32))
    assert size(status) > LIMIT
    kept = shrink_to_limit(status)
    assert size(kept) <= LIMIT
    assert kept.epochs[-1].step == 49
    assert len(kept.epochs) >= 10


def test_the_newest_attempts_and_what_counts_stay_when_everything_is_as_long_as_it_may_be() -> None:
    attempts = [AttemptStatus(number=n, message="m" * 1024, start_time=NOW) for n in range(1, 21)]
    labels = [f"{number:0128}" for number in range(200)]
    status = FineTuneJobStatus(
        attempt=20, retries=19, attempts=attempts, effective=EffectiveStatus(labels=labels)
    )
    kept = shrink_to_limit(status)
    assert size(kept) <= LIMIT
    assert (kept.attempt, kept.retries, kept.attempts[-1].number) == (20, 19, 20)
