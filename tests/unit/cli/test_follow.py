"""What is shown of a job is what it says, whatever that is; a server that is away for a moment is asked again."""

import io
from typing import Any

import pytest
from rich.console import Console

from api_stub import JOBS, Reply, Stub
from builders import job, stored
from finetune_cli.follow import View
from unit.cli.commands import finetune

Status = dict[str, Any]


def status(message: str = "", **fields: Any) -> Status:
    return {"phase": "Failed", "display": {"message": message}} | fields


def condition(kind: str, reason: str = "DataError") -> Status:
    times = {"lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1}
    return {"type": kind, "status": "True", "reason": reason, "message": "", **times}


def finished(kind: str = "Complete", **fields: Any) -> Status:
    return status(conditions=[condition("Finished"), condition(kind)], **fields)


def shown(*statuses: Status) -> str:
    """What is printed without a terminal."""
    out = io.StringIO()
    with View(Console(file=out, soft_wrap=True, highlight=False)) as view:
        for one in statuses:
            view.show(one)
    return out.getvalue()


def reply(of: Status) -> Reply:
    return 200, stored(job("job"), namespace="team") | {"status": of}


@pytest.mark.parametrize(
    "message", ["label 'x' is not one of [neg, pos]", "[rank0]: killed", "see [/var/log/x] and [/]"]
)
def test_a_message_with_brackets_is_shown_as_it_is(message: str) -> None:
    assert message in shown(status(message))


def test_metrics_with_brackets_in_their_names_are_shown_as_they_are() -> None:
    epoch = {"step": 1, "epoch": 1.0, "metrics": {"f1[/neg]": 0.5}}
    assert "f1[/neg] 0.500" in shown(status(epochs=[epoch]))


def test_every_evaluation_and_every_message_is_one_line() -> None:
    first, second = ({"step": step, "epoch": 1.0, "trainLoss": 0.5} for step in (10, 20))
    lines = shown(status("a", epochs=[first]), status("a", epochs=[first, second])).splitlines()
    assert len(lines) == 3
    assert "step     20" in lines[2]


@pytest.mark.parametrize(
    "fault", [(503, {"message": "away"}), (429, {"message": "slow down"}), (500, b"<html>")]
)
def test_a_server_that_is_away_for_a_moment_is_asked_again(stub: Stub, fault: Reply) -> None:
    first = reply(status("runs", phase="Running"))
    stub.replies[f"{JOBS}/job"] = [first, first, fault, fault, reply(finished(phase="Succeeded"))]
    assert finetune("status", "job", "--follow").code == 0


@pytest.mark.parametrize(
    ("attempts", "code"),
    [([{"number": 1, "exitCode": 65}], 65), ([{"number": 1, "exitCode": 139}], 1), ([], 1)],
    ids=["the trainer's", "of a signal", "no attempt"],
)
def test_a_job_that_has_failed_gives_the_trainer_s_exit_code(
    stub: Stub, attempts: list[Status], code: int
) -> None:
    stub.replies[f"{JOBS}/job"] = [reply(finished("Failed", attempts=attempts))]
    done = finetune("wait", "job")
    assert done.code == code
    assert done.err.startswith("job Failed")


def test_a_job_that_does_not_finish_in_time_ends_with_3(stub: Stub) -> None:
    stub.replies[f"{JOBS}/job"] = [reply(status("trains", phase="Running"))]
    done = finetune("wait", "job", "--timeout", "0")
    assert (done.code, done.err) == (3, "job has not finished after 0 s: trains\n")
