"""The log of an attempt beside its checkpoints: real processes write it, and it stays bounded."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_trainer.process.kept_log import ATTEMPTS, KeptLog
from unit.trainer.tiny import Job

SECONDS = 240
WRITES = """
import sys
from pathlib import Path
from finetune_trainer.process.supervisor import Places, supervised

def run():
    Places(1, "stacks", None, sys.argv[1]).tell()
    {body}
    return 3

sys.exit(supervised(run))
"""


def written(body: str, log: Path) -> "subprocess.CompletedProcess[bytes]":
    """A supervised process that does this; its log is to be kept."""
    return subprocess.run(
        [sys.executable, "-c", WRITES.format(body=body), str(log)],
        capture_output=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(folder for folder in sys.path if folder)},
        check=False,
        timeout=SECONDS,
    )


def test_both_streams_are_passed_on_apart_and_kept_together(tmp_path: Path) -> None:
    body = "print('to out'); print('to err', file=sys.stderr)"
    done = written(body, log := tmp_path / "logs" / "attempt-1.log")
    assert (done.returncode, done.stdout, done.stderr) == (3, b"to out\n", b"to err\n")
    assert sorted(log.read_text().splitlines()) == ["to err", "to out"]


def test_the_last_words_of_a_killed_process_and_of_its_parent_are_kept(tmp_path: Path) -> None:
    body = "import os; print('before', flush=True); os.kill(os.getpid(), 9)"
    done = written(body, log := tmp_path / "attempt-1.log")
    assert done.returncode == 128 + signal.SIGKILL
    assert log.read_text().startswith(
        "before\nfinetune_trainer: killed by SIGKILL; the kernel does this when"
    )


def test_a_process_that_is_left_behind_holds_up_no_end(tmp_path: Path) -> None:
    body = "import subprocess; subprocess.Popen(['sleep', '1000'], start_new_session=True)"
    begun = time.monotonic()
    assert written(f"print('x'); {body}", log := tmp_path / "attempt-1.log").returncode == 3
    assert time.monotonic() - begun < SECONDS
    assert log.read_text() == "x\n"


@pytest.mark.parametrize("place", ["/proc/nothing/attempt-1.log", "/dev/full"], ids=["no folder", "full"])
def test_a_log_that_cannot_be_kept_changes_nothing_and_is_reported_once(place: str) -> None:
    body = "[print('line', n, flush=True) for n in range(1000)]"
    done = written(body, Path(place))
    assert done.returncode == 3
    assert done.stdout.splitlines() == [f"line {number}".encode() for number in range(1000)]
    assert done.stderr.count(b"the log of this attempt is not kept any more: ") == 1


def test_the_end_of_a_long_log_is_kept_in_bounded_files(tmp_path: Path) -> None:
    path, most = tmp_path / "attempt-1.log", 20_000
    log = KeptLog(path, most)
    lines = [f"line {number}\n".encode() for number in range(10_000)]
    for line in lines:
        log.write(line)
    log.close()
    older = tmp_path / "attempt-1.log.1"
    kept = older.read_bytes() + path.read_bytes()
    assert most / 2 <= len(kept) <= most
    assert b"".join(lines).endswith(kept)


def test_the_second_pod_of_an_attempt_adds_to_its_log(tmp_path: Path) -> None:
    for pod in (b"first\n", b"second\n"):
        log = KeptLog(tmp_path / "attempt-1.log")
        log.write(pod)
        log.close()
    assert (tmp_path / "attempt-1.log").read_text() == "first\nsecond\n"


def test_the_logs_of_the_newest_attempts_are_kept_and_other_files_stay(tmp_path: Path) -> None:
    (tmp_path / "notes.log").write_text("mine")
    for attempt in range(1, 25):
        for node in ("", "-node-1"):
            KeptLog(tmp_path / f"attempt-{attempt}{node}.log").close()
    numbers = range(25 - ATTEMPTS, 25)
    wanted = {f"attempt-{number}{node}.log" for number in numbers for node in ("", "-node-1")}
    assert {file.name for file in tmp_path.iterdir()} == {"notes.log", *wanted}


def test_a_run_leaves_its_log_beside_its_checkpoints(make_job: Callable[..., Job]) -> None:
    made = make_job()
    done = subprocess.run(
        [sys.executable, "-m", "finetune_trainer", str(made.write())],
        capture_output=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(folder for folder in sys.path if folder)},
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 0
    kept = (made.folder / "out" / "logs" / "attempt-1.log").read_bytes()
    assert done.stdout
    assert sorted(kept.splitlines()) == sorted([*done.stdout.splitlines(), *done.stderr.splitlines()])
