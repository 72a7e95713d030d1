"""A line of a log is shown, whatever a program wrote into it."""

import pytest

from finetune_cli.logs import readable

RECORD = '{"time": "2026-01-01T10:20:30Z", "level": "info", "message": "epoch 1 of 3"}'


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (RECORD, "10:20:30 epoch 1 of 3"),
        (RECORD.replace("info", "warning"), "10:20:30 warning: epoch 1 of 3"),
        ("{'loss': 0.5}", "{'loss': 0.5}"),
        ("[1, 2]", "[1, 2]"),
        ("[" * 5000, "[" * 5000),
        ("[" * 5000 + "]" * 5000, "[" * 5000 + "]" * 5000),
    ],
)
def test_a_record_of_the_trainer_is_a_line_and_all_else_is_as_it_is(line: str, shown: str) -> None:
    assert readable(line) == shown
