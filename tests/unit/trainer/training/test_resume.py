"""Interrupted runs go on to the same bytes: stopped, with damaged checkpoints, with other inputs."""

import hashlib
import json
import os
import shutil
import signal

import pytest

from finetune_api.run import ExitCode
from unit.trainer.training.test_crash import ask_to_stop, die, do_at

TRAINING = {
    "epochs": 4,
    "checkpoint": {"every": {"steps": 3}, "keep": 2},
    "evaluation": {"every": {"steps": 5}},
    "earlyStopping": {"patience": 3, "metric": "loss"},
}
BATCHES = 20


def digest(job):
    return hashlib.sha256((job.model_dir / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, model_folder):
    """The weights of the run that nothing disturbs, and its report."""
    from unit.trainer.tiny import job, reviews

    made = job(tmp_path_factory.mktemp("undisturbed") / "job", model_folder, reviews(64), training=TRAINING)
    assert made.run_apart() == ExitCode.DONE
    return digest(made), made.report


def kill_in_evaluation(number):
    """Kills the process within its n-th evaluation."""
    import torch

    real, count = torch.inference_mode, iter(range(1, 10**9))

    def inference_mode():
        if next(count) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return real()

    torch.inference_mode = inference_mode


def much_evaluated(folder, model_folder):
    """A job with validation and test rows of BATCHES batches each."""
    from unit.trainer.tiny import job, reviews, write_jsonl

    made = job(folder, model_folder, reviews(64), training=TRAINING)
    rows = {"path": str(write_jsonl(folder / "more.jsonl", reviews(16 * BATCHES, start=1000)))}
    return made.changed({"dataset": {"split": None, "validation": rows, "test": rows}})


@pytest.fixture(scope="module")
def much_evaluated_undisturbed(tmp_path_factory, model_folder):
    made = much_evaluated(tmp_path_factory.mktemp("undisturbed") / "job", model_folder)
    assert made.run_apart() == ExitCode.DONE
    return digest(made), made.report


def stop_in_evaluation(number):
    """Signals the process at its n-th batch of an evaluation; it is killed in the next batch but one."""
    import torch

    real, count = torch.inference_mode, iter(range(1, 10**9))

    def inference_mode():
        passed = next(count) - number
        if passed == 0:
            ask_to_stop()
        if passed == 2:
            die()
        return real()

    torch.inference_mode = inference_mode


@pytest.mark.parametrize("part", ["validation", "test"])
def test_sigterm_in_an_evaluation_is_obeyed_before_its_end(
    tmp_path, model_folder, much_evaluated_undisturbed, part
):
    """In the second evaluation of the validation rows, or in that of the test rows after the last step."""
    expected, report = much_evaluated_undisturbed
    last = report.progress.step
    before, step, when = {
        "validation": (1, 10, "at step 10"),
        "test": (len(report.epochs), last, f"after step {last}, the last one"),
    }[part]
    made = much_evaluated(tmp_path / "job", model_folder)
    code = made.run_apart(lambda: stop_in_evaluation(before * BATCHES + 3))
    assert code == ExitCode.INTERRUPTED, made.log
    assert made.report.message == f"stopped by SIGTERM {when}; checkpoint saved"
    again = made.changed({"job": {"attempt": 2}})
    assert again.run_apart() == ExitCode.DONE
    assert again.report.from_step == step
    assert digest(again) == expected
    assert again.report.model.metrics == report.model.metrics


def test_sigterm_saves_answers_75_and_the_next_attempt_goes_on_to_the_same_bytes(make_job, undisturbed):
    made = make_job(training=TRAINING)
    assert made.run_apart(lambda: do_at("step", 4, ask_to_stop)) == ExitCode.INTERRUPTED
    report = made.report
    assert "stopped by SIGTERM at step 4" in report.message
    assert report.latest.step == 4
    again = made.changed({"job": {"attempt": 2}})
    assert again.run_apart() == ExitCode.DONE
    assert again.report.from_step == 4
    assert digest(again) == undisturbed[0]


def test_a_damaged_newest_checkpoint_costs_steps_but_not_exactness(make_job, undisturbed):
    made = make_job(training=TRAINING)
    assert made.run_apart(lambda: kill_in_evaluation(2)) == -signal.SIGKILL
    newest = max(made.checkpoint_dir.glob("step-*"))
    content = bytearray((newest / "optimizer.safetensors").read_bytes())
    content[-3] ^= 1
    (newest / "optimizer.safetensors").write_bytes(content)
    assert made.run_apart() == ExitCode.DONE
    assert f"checkpoint {newest.name} is skipped: optimizer.safetensors is damaged" in made.log
    assert 0 < made.report.from_step < int(newest.name.removeprefix("step-"))
    assert digest(made) == undisturbed[0]


def test_metrics_of_steps_that_are_trained_again_are_not_told_twice(make_job):
    made = make_job(training=TRAINING)
    assert made.run_apart(lambda: kill_in_evaluation(2)) == -signal.SIGKILL
    assert made.run_apart() == ExitCode.DONE
    entries = [json.loads(line) for line in (made.model_dir / "metrics.jsonl").read_text().splitlines()]
    steps = [entry["step"] for entry in entries if entry["event"] == "train"]
    assert steps == list(range(1, 25))


def test_resume_never_starts_anew(make_job, undisturbed):
    training = TRAINING | {"checkpoint": {"every": {"steps": 3}, "resume": "Never"}}
    made = make_job(training=training)
    assert made.run_apart(lambda: kill_in_evaluation(2)) == -signal.SIGKILL
    assert made.run_apart() == ExitCode.DONE
    assert made.report.from_step == 0
    assert digest(made) == undisturbed[0]


def test_the_data_of_another_day_starts_anew_and_says_so(make_job):
    made = make_job(training=TRAINING)
    assert made.run_apart(lambda: kill_in_evaluation(2)) == -signal.SIGKILL
    with (made.folder / "train.jsonl").open("a") as file:
        file.write('{"text": "a good film", "label": "pos"}\n')
    assert made.run_apart() == ExitCode.DONE
    assert made.report.from_step == 0
    assert "another configuration or other data" in made.log


def test_another_tokenizer_starts_anew_and_says_so(make_job, model_folder, tmp_path):
    made = make_job(training=TRAINING)
    assert made.run_apart(lambda: kill_in_evaluation(2)) == -signal.SIGKILL
    other = tmp_path / "tokenizer"
    other.mkdir()
    tokenizer = json.loads((model_folder / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["good"], words["bad"] = words["bad"], words["good"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    shutil.copy(model_folder / "tokenizer_config.json", other)
    again = made.changed({"model": {"tokenizerPath": str(other)}})
    assert again.run_apart() == ExitCode.DONE
    assert again.report.from_step == 0
    assert "another configuration or other data" in again.log


def test_a_zombie_of_an_older_attempt_stops_when_a_newer_one_took_over(make_job):
    from finetune_trainer.checkpoints.fence import Fence

    made = make_job(training=TRAINING)
    newer = Fence(made.checkpoint_dir, attempt=2)
    assert made.run_apart(lambda: do_at("step", 4, newer.claim)) == ExitCode.INTERRUPTED
    assert "attempt 2 now owns the checkpoints" in made.report.message
    assert not made.model_dir.exists()
