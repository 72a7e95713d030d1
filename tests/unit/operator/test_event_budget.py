"""The Events of a job that flaps: few, and none without a trace."""

from datetime import timedelta

from finetune_operator.event_budget import BURST, REFILL, EventBudget
from finetune_operator.events import Event
from unit.operator.worlds import T0


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def event(reason: str = "Running", message: str = "", uid: str = "one", at: float = 0) -> Event:
    return Event("team-a", "job", uid, "1", "Normal", reason, message, T0 + timedelta(seconds=at))


def used_up(clock: Clock) -> EventBudget:
    budget = EventBudget(clock)
    assert all(budget.admits(event()) for _ in range(BURST))
    return budget


def test_another_job_has_a_budget_of_its_own() -> None:
    budget = used_up(Clock())
    assert not budget.admits(event())
    assert budget.admits(event(uid="two"))


def test_ten_an_hour_follow_the_first_ones() -> None:
    clock = Clock()
    budget, posted = used_up(clock), list[Event]()
    for second in range(0, 10 * 3600, 30):
        clock.now = float(second)
        posted += [one for one in [event(at=second)] if budget.admits(one)] + budget.due()
    assert len(posted) <= 10 * 3600 / REFILL
    assert sum(one.count for one in posted + budget.rest()) == 10 * 3600 / 30, "each is counted"


def test_an_event_that_was_held_is_posted_as_the_newest_of_all_that_it_stands_for() -> None:
    clock = Clock()
    budget = used_up(clock)
    for number in range(3):
        assert not budget.admits(event("WaitingToRetry", f"attempt {number} ended", at=60 * number))
    assert budget.due() == []
    clock.now = REFILL
    (posted,) = budget.due()
    body = posted.body()
    assert (body["message"], body["count"]) == ("attempt 2 ended", 3)
    assert (body["firstTimestamp"], body["lastTimestamp"]) == ("2026-01-01T12:00:00Z", "2026-01-01T12:02:00Z")
    assert budget.due() == []


def test_reasons_take_turns_and_the_last_one_comes_too() -> None:
    clock = Clock()
    budget, order = used_up(clock), list[str]()
    for _ in range(4):
        for reason in ("Starting", "Running", "WaitingToRetry"):
            budget.admits(event(reason))
        clock.now += REFILL
        assert not budget.admits(event("Running")), "the token is for one that waits"
        order += [one.reason for one in budget.due()]
    assert order == ["Starting", "Running", "WaitingToRetry", "Starting"]
    budget.admits(event("Succeeded"))
    assert "Succeeded" in [one.reason for one in budget.rest()]


def test_nothing_is_kept_of_jobs_that_were_quiet_for_a_while() -> None:
    clock = Clock()
    budget = EventBudget(clock)
    for number in range(10_000):
        assert budget.admits(event(uid=str(number)))
    clock.now = REFILL
    assert budget.due() == []
    assert not budget._full
    assert not budget._held
