"""Pauses between tries: twice as long each time, bounded, whatever the number of tries."""

from itertools import islice

import pytest

from finetune_core.backoff import backoff, jitter
from finetune_operator.handlers import EndlessBackoff


def test_the_pause_doubles_with_every_try() -> None:
    assert [backoff(tries, 0.5, 60) for tries in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, 32, 60]


@pytest.mark.parametrize("tries", [9, 64, 1_025, 5_000, 10**9])
def test_the_longest_pause_stays_however_often_it_failed(tries: int) -> None:
    assert backoff(tries, 0.5, 60) == 60


@pytest.mark.parametrize("tries", [1, 0, -1])
def test_the_first_pause_is_the_shortest(tries: int) -> None:
    assert backoff(tries, 10, 300) == 10


def test_a_pause_of_nothing_stays_nothing() -> None:
    assert backoff(5_000, 0, 300) == 0


def test_jitter_is_a_fifth() -> None:
    assert all(8 <= jitter(10) <= 12 for _ in range(1_000))


def test_kopf_is_given_pauses_without_an_end() -> None:
    pauses = list(islice(EndlessBackoff(), 2_000))
    assert 0.8 <= pauses[0] <= 1.2
    assert all(20 <= pause <= 30 for pause in pauses[10:])
