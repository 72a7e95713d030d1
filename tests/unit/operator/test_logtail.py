"""The end of a log as a message: what went wrong first, readable in one line of kubectl."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_core.decide.logtail import log_tail

RED, PLAIN = "\x1b[1;31m", "\x1b[0m"


@pytest.mark.parametrize(
    ("log", "shown"),
    [
        ("", ""),
        (" \n\r\n \r", ""),
        ("ValueError: no\n", "ValueError: no"),
        ("Traceback:\n  line 3\nKeyError: 'x'\n\n", "KeyError: 'x'\nTraceback:\nline 3"),
        ("  0%|  | 0/100\r 50%|# | 50/100\rRuntimeError: boom\n", "RuntimeError: boom"),
        ("  0%|  | 0/100\r 50%|# | 50/100", "50%|# | 50/100"),
        ("100%|##| 100/100\r\nOSError: disk\r\n", "OSError: disk\n100%|##| 100/100"),
        (f"{RED}AssertionError{PLAIN}: {RED}loss{PLAIN}\n", "AssertionError: loss"),
        ("\x1b]0;title\x07ImportError: x", "ImportError: x"),
        ("\x1b[2K\x1b[1Gdone: no\x1b[?25h", "done: no"),
        ("a\x00b\x07c", "abc"),
        ("Fehler: größer 語\n", "Fehler: größer 語"),
    ],
)
def test_the_last_line_comes_first(log: str, shown: str) -> None:
    assert log_tail(log) == shown


def test_of_a_long_log_the_end_stays() -> None:
    shown = log_tail("first\n" + "x" * 2000 + "\nlast")
    assert shown.startswith("last\nxxx")
    assert len(shown) <= 602
    assert len(log_tail("y" * 5000)) == 600


@given(st.text(max_size=2000))
def test_any_log_becomes_a_short_text_without_control_characters(log: str) -> None:
    shown = log_tail(log)
    assert len(shown) <= 602
    assert not {"\x1b", "\r", "\x00"} & set(shown)
