"""Several nodes: a launcher each, all of one run. Here they are processes of one machine."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from finetune_api.run import ExitCode, NodesInput
from finetune_trainer.checkpoints.fence import Fence
from finetune_trainer.errors import ConfigurationError, StoppedError
from finetune_trainer.files import sha256
from finetune_trainer.process.heartbeat import FOLDER, STALL_SECONDS, Beats
from finetune_trainer.process.launch import COLLECTIVE_TIMEOUT, NODE_RANK, Node
from ports import free_port
from unit.trainer.forks import SECONDS
from unit.trainer.process.hold import Hold
from unit.trainer.process.test_launch import ONLY_STEPS, TRAINED
from unit.trainer.runs import on_ranks

TRAINING = {"epochs": 3, "microBatchSize": 4, "checkpoint": {"every": {"steps": 3}}}


def start(made, rank, count=2, port=None, hold=None):
    """The trainer of one node; its report is in the file that `report_of` reads."""
    nodes = {"count": count, "address": "127.0.0.1", "port": port}
    own = made.changed({"nodes": nodes, "terminationLog": str(made.folder / f"rank-{rank}")})
    path = made.folder / f"node-{rank}.json"
    path.write_bytes(own.write().read_bytes())
    folders = hold.path if hold else os.pathsep.join(filter(None, sys.path))
    with (made.folder / "log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "finetune_trainer", str(path)],
            stdout=log,
            stderr=log,
            env=os.environ | {"PYTHONPATH": folders, NODE_RANK: str(rank)},
        )


def rank_of(started):
    """The only rank of a launcher, whose parent watches it."""
    (launcher,) = until(lambda: _children(started.pid))
    return until(lambda: _children(launcher))[0]


def _children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def stop_within_a_step(rank):
    """SIGSTOP where its launcher watches it: not while it reads the next batch."""
    variables = Path(f"/proc/{rank}/environ").read_bytes().split(b"\0")
    folder = dict(entry.split(b"=", 1) for entry in variables if entry)[FOLDER.encode()]
    beats = Beats(Path(folder.decode()))

    def stopped():
        os.kill(rank, signal.SIGSTOP)
        until(lambda: Path(f"/proc/{rank}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        if beats.read()[0].deadline:
            return True
        os.kill(rank, signal.SIGCONT)
        return False

    until(stopped)


def until(found):
    deadline = time.monotonic() + SECONDS
    while not (result := found()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return result


def weights_digest(made):
    return sha256(made.model_dir / "model.safetensors")


def test_two_nodes_give_the_bytes_of_two_processes_though_one_was_killed_in_between(make_job):
    """The node whose process was killed says so, the other that it lost it; the next attempt goes on."""
    together = make_job("together", training=TRAINING | {"sharding": "Full"})
    assert together.run_ranks(2) == [ExitCode.DONE, ExitCode.DONE], together.log
    made = make_job("apart", training=TRAINING | {"sharding": "Full"})
    port = free_port()
    hold = Hold(made.folder / "hold", step=6)
    nodes = [start(made, rank, port=port, hold=hold) for rank in range(2)]
    until((made.checkpoint_dir / "step-00000003").exists)
    os.kill(int(rank_of(nodes[1])), signal.SIGKILL)
    hold.release()
    assert [node.wait(SECONDS) for node in nodes] == [ExitCode.PEER_LOST, 128 + signal.SIGKILL], made.log
    assert made.report_of(0).message.startswith("another process of this run was lost")
    assert "the process of rank 1 was killed by SIGKILL" in made.report_of(1).message
    again = made.changed({"job": {"attempt": 2}})
    nodes = [start(again, rank, port=port) for rank in range(2)]
    assert [node.wait(SECONDS) for node in nodes] == [ExitCode.DONE, ExitCode.DONE], made.log
    report = made.report_of(0)
    assert (report.from_step >= 3, report.effective.processes) == (True, 2)
    assert "in 2 processes on 2 nodes" in made.log
    assert weights_digest(made) == weights_digest(together)


def test_every_node_keeps_its_own_stacks_when_the_run_stalls(make_job, monkeypatch):
    monkeypatch.setenv(STALL_SECONDS, "4")
    made = make_job(training=ONLY_STEPS)
    port = free_port()
    nodes = [start(made, rank, port=port) for rank in range(2)]
    until(lambda: TRAINED in made.log)
    stop_within_a_step(int(rank_of(nodes[1])))
    assert [node.wait(SECONDS) for node in nodes] == [ExitCode.STALLED] * 2, made.log
    first, second = (
        (made.checkpoint_dir.parent / f"stacks-attempt-1{node}.txt").read_text() for node in ("", "-node-1")
    )
    assert "most recent call first" in first
    assert "(it does not answer)" in second
    assert "stacks-attempt-1-node-1.txt" in made.report_of(1).message


def test_a_node_whose_peers_never_come_says_how_many_did(make_job, monkeypatch):
    monkeypatch.setenv(COLLECTIVE_TIMEOUT, "2")
    made = make_job(training=TRAINING)
    assert made.run_rank(0, 2) == ExitCode.PEER_LOST
    message = made.report_of(0).message
    assert message.startswith("rank 0 of 2 met not all others at 127.0.0.1:")
    assert "1/2 clients joined" in message


def test_a_signal_ends_a_node_that_waits_for_the_others(make_job):
    made = make_job(training=TRAINING)
    launcher = start(made, 0, port=free_port())
    until(lambda: "computing on cpu" in made.log)
    launcher.terminate()
    assert launcher.wait(SECONDS) == ExitCode.INTERRUPTED, made.log
    assert made.report_of(0).message == "stopped by SIGTERM before training began"


@pytest.mark.parametrize("text", ["", "2", "-1", "one"])
def test_a_node_without_its_number_does_not_start(make_job, monkeypatch, text):
    monkeypatch.setenv(NODE_RANK, text)
    made = make_job(nodes={"count": 2, "address": "node-0"})
    assert made.run() == ExitCode.CONFIGURATION
    assert made.report.message.startswith(f"{NODE_RANK}={text!r}: a run on 2 nodes")


def test_the_first_node_meets_the_others_at_itself():
    nodes = NodesInput(count=3, address="job-0.job", port=29501)
    assert Node.of(nodes, {NODE_RANK: "0"}) == Node(0, 3, "127.0.0.1", 29501)
    assert Node.of(nodes, {NODE_RANK: "2"}) == Node(2, 3, "job-0.job", 29501)
    assert Node.of(None, {NODE_RANK: "1"}) == Node()


def test_ranks_that_read_other_inputs_do_not_train(tmp_path):
    def body(ranks):
        from finetune_trainer.training.agreement import check_same_inputs

        check_same_inputs(SimpleNamespace(fingerprint="same"), ranks)
        check_same_inputs(SimpleNamespace(fingerprint=str(ranks.rank // 2)), ranks)

    for error in on_ranks(3, body, tmp_path):
        assert isinstance(error, ConfigurationError)
        assert error.message.startswith("rank 2 read other inputs than rank 0")


def test_nodes_that_do_not_share_the_output_folder_do_not_train(tmp_path):
    def body(ranks):
        from finetune_trainer.training.agreement import check_shared_output

        shared, own = (Fence(tmp_path / name, attempt=1) for name in ("shared", f"own-{ranks.rank}"))
        if ranks.is_main:
            shared.claim()
            own.claim()
        check_shared_output(SimpleNamespace(fence=shared), ranks)
        check_shared_output(SimpleNamespace(fence=own), ranks, seconds=0.5)

    for error in on_ranks(2, body, tmp_path):
        assert isinstance(error, ConfigurationError)
        assert error.message.startswith("rank 1 does not see what rank 0 writes to")


def test_all_nodes_of_an_older_attempt_stop_when_a_newer_one_has_the_folder(tmp_path):
    def body(ranks):
        from finetune_trainer.training.agreement import check_shared_output

        old, new = (Fence(tmp_path / "shared", attempt) for attempt in (1, 2))
        if ranks.is_main:
            old.claim()
            new.claim()
        check_shared_output(SimpleNamespace(fence=old), ranks, seconds=0.5)

    for error in on_ranks(2, body, tmp_path):
        assert isinstance(error, StoppedError)
        assert error.message.startswith("attempt 2 now owns the checkpoints")
