"""Token buckets of addresses, on a clock of the test."""

from finetune_operator.failure_limit import FailureLimit


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_address_may_try_so_often_at_once_and_then_at_a_rate() -> None:
    clock = Clock()
    limit = FailureLimit(3, 0.5, clock)
    assert [limit.take("a") for _ in range(4)] == [True, True, True, False]
    clock.now = 1.9
    assert not limit.take("a")
    clock.now = 2.0
    assert [limit.take("a") for _ in range(2)] == [True, False]
    clock.now = 1000.0
    assert [limit.take("a") for _ in range(4)] == [True, True, True, False]


def test_each_address_has_its_own() -> None:
    limit = FailureLimit(1, 0.0, Clock())
    assert [limit.take(one) for one in ("a", "a", "b", "b")] == [True, False, True, False]


def test_what_was_given_back_may_be_taken_again_and_no_more() -> None:
    limit = FailureLimit(2, 0.0, Clock())
    for _ in range(100):
        assert limit.take("a")
        limit.give_back("a")
    limit.give_back("a")
    assert [limit.take("a") for _ in range(3)] == [True, True, False]
