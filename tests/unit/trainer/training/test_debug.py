"""The looks inside a run: one batch by heart, statistics of layers, a profile, TensorBoard; and where they lie."""

import json
import signal
import subprocess

import pytest

from finetune_api.run import ExitCode
from unit.trainer.training.test_crash import die, digest, do_at

QUICK = {"schedule": {"name": "Constant", "warmup": {"steps": 0}}, "optimizer": {"learningRate": 5e-3}}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_batch_is_learned_by_heart_and_the_message_says_so(make_job):
    training = QUICK | {"epochs": None, "maxSteps": 40, "debug": {"overfitOneBatch": True}}
    made = make_job(training=training, model={"dropout": 0.0})
    assert made.run() == ExitCode.DONE
    assert "; the one batch was learned: its loss went from 0.69" in made.report.message


def test_one_batch_that_cannot_be_learned_is_told_with_what_to_look_at(make_job):
    training = {
        "epochs": None,
        "maxSteps": 5,
        "optimizer": {"learningRate": 1e-9},
        "debug": {"overfitOneBatch": True},
    }
    made = make_job(training=training)
    assert made.run() == ExitCode.DONE
    assert "; the one batch was NOT learned: its loss went from 0.69" in made.report.message
    assert "look at labels, frozen parts and label smoothing" in made.report.message


def test_statistics_are_those_of_the_layers_outputs_and_gradients(model_folder):
    import torch

    from finetune_trainer.training.debug import layer_statistics

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh())
    batches, outputs, gradients = [torch.randn(5, 3), torch.randn(2, 3)], [], []
    with layer_statistics(model) as layers:
        for batch in batches:
            (model(batch) ** 2).sum().backward()
    for batch in batches:
        hidden = model[0](batch).detach().requires_grad_()
        (torch.tanh(hidden) ** 2).sum().backward()
        outputs.append(hidden.detach().flatten())
        gradients.append(hidden.grad.flatten())
    assert list(layers) == ["0", "1"]
    for moments, values in zip(layers["0"], (outputs, gradients), strict=True):
        expected = torch.cat(values).double()
        told = moments.summary()
        assert told["mean"] == pytest.approx(expected.mean().item(), rel=1e-4)
        assert told["std"] == pytest.approx(expected.std(correction=0).item(), rel=1e-4)
        assert told["max"] == pytest.approx(expected.abs().max().item(), rel=1e-4)
    assert not model[0]._forward_hooks


def test_what_is_not_finite_is_null_in_the_statistics():
    import torch

    from finetune_trainer.training.debug import Moments

    moments = Moments()
    assert moments.summary() == {}
    moments.add(torch.tensor([1.0, float("nan")]))
    assert moments.summary() == {"mean": None, "std": None, "max": None}


ALL = {"statisticsEvery": 4, "profile": {"fromStep": 3, "steps": 2}, "tensorBoard": True}


def test_everything_lies_in_the_models_folder_under_its_sums(make_job):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    made = make_job(training={"debug": ALL})
    assert made.run_apart() == ExitCode.DONE, made.log
    folder = made.model_dir
    statistics = lines(folder / "statistics.jsonl")
    assert sorted({entry["step"] for entry in statistics}) == [4, 8, 12]
    names = [entry["layer"] for entry in statistics if entry["step"] == 4]
    assert {"bert.embeddings.LayerNorm", "bert.encoder.layer.1.output.dense", "classifier"} <= set(names)
    assert all(entry["gradients"]["max"] > 0 for entry in statistics if entry["layer"] == "classifier")
    trace = json.loads((folder / "trace.json").read_text())
    assert any("aten::" in event.get("name", "") for event in trace["traceEvents"])
    board = EventAccumulator(str(folder / "tensorboard")).Reload()
    losses = {point.step: point.value for point in board.Scalars("train/loss")}
    told = {e["step"]: e["loss"] for e in lines(folder / "metrics.jsonl") if e["event"] == "train"}
    assert losses == pytest.approx(told, rel=1e-4)
    assert [point.step for point in board.Scalars("evaluation/eval_loss")] == [6, 12]
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    assert "; " not in made.report.message


def test_looking_changes_no_weight_and_survives_a_crash(make_job):
    plain = make_job("plain", training={"checkpoint": {"every": {"steps": 3}}})
    assert plain.run_apart() == ExitCode.DONE
    made = make_job(training={"checkpoint": {"every": {"steps": 3}}, "debug": ALL})
    assert made.run_apart(lambda: do_at("step", 8, die)) == -signal.SIGKILL
    assert made.changed({"job": {"attempt": 2}}).run_apart() == ExitCode.DONE, made.log
    assert digest(made) == digest(plain)
    steps = [e["step"] for e in lines(made.model_dir / "statistics.jsonl") if e["layer"] == "classifier"]
    assert steps == [4, 8, 12]
    assert (made.model_dir / "trace.json").exists()


def test_a_profile_that_never_began_is_told(make_job):
    made = make_job(training={"epochs": 1, "debug": {"profile": {"fromStep": 100}}})
    assert made.run() == ExitCode.DONE
    assert "no trace was written: this attempt did not begin step 100 (of 6)" in made.report.message
    assert not (made.model_dir / "trace.json").exists()
