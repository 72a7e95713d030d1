"""Runs with `training.ema`: what is evaluated, chosen and published, and that interruptions change nothing."""

import json
import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from finetune_api.run import ExitCode, RunReport
from finetune_api.status import EpochStatus, Weights
from finetune_api.training import Sharding
from finetune_trainer.training.comparison import better_of, choice_sentence, own_metrics
from unit.trainer.optimization.test_ema import averages
from unit.trainer.optimization.test_optimizer import kill_before_step
from unit.trainer.runs import a_run, checkpoints_in, largest_difference, on_ranks, weights
from unit.trainer.test_sharding import error_of, sharded
from unit.trainer.tiny import reviews, write_jsonl
from unit.trainer.training.test_crash import die, digest, do_at
from unit.trainer.training.test_nonfinite import DIVERGING, explode, returns
from unit.trainer.training.test_resume import kill_in_evaluation

NOISY = {
    "ema": {"decay": 0.9},
    "epochs": 3,
    "batchSize": 4,
    "microBatchSize": 4,
    "optimizer": {"name": "SGD", "learningRate": 0.2, "weightDecay": 0.0},
    "schedule": {"name": "Constant", "warmup": {"steps": 0}},
    "evaluation": {"every": {"steps": 8}},
    "checkpoint": {"every": {"steps": 5}},
}
"""48 steps at a constant rate in small batches: the weights jump about, their average less."""
STOPPING = {"earlyStopping": {"patience": 5}}
VALIDATION = reviews(16, start=900)
REGRESSION = {"objective": {"regression": {}}, "dataset": {"columns": {"label": "rating"}, "split": None}}


@pytest.fixture
def noisy(make_job):
    """Makes jobs with that plan on numbers; the test rows are the validation rows, so that both give one metric."""

    def make(name="job", plan=None, rows=None, **changes):
        made = make_job(name, rows=rows, training=NOISY | (plan or {}), **REGRESSION).changed(changes)
        part = {"path": str(write_jsonl(made.folder / "validation.jsonl", VALIDATION))}
        return made.changed({"dataset": {"validation": part, "test": part}})

    return make


def recorded(made):
    """The report in the model's folder, with all evaluations; the termination message has the last ones only."""
    return RunReport.model_validate(json.loads((made.model_dir / "run.json").read_text())["report"])


def evaluated(report):
    """Steps with the losses of both weights, and the better ones."""
    return [(e.step, e.metrics["trained_loss"], e.metrics["ema_loss"], e.weights) for e in report.epochs]


def reported(report):
    return (
        evaluated(report),
        report.best,
        report.message.partition(": ")[2],
        report.model.metrics,
        report.model.weights,
    )


def test_both_weights_are_scored_and_the_better_ones_are_chosen_recorded_and_published(noisy):
    made = noisy()
    assert made.run_apart() == ExitCode.DONE, made.log
    report = recorded(made)
    found = evaluated(report)
    assert [step for step, *_ in found] == [8, 16, 24, 32, 40, 48]
    assert {weights for *_, weights in found} == {Weights.TRAINED, Weights.EMA}
    for (_, trained, averaged, chosen), epoch in zip(found, report.epochs, strict=True):
        assert chosen is (Weights.EMA if averaged < trained else Weights.TRAINED)
        assert epoch.eval_loss == min(trained, averaged)
    best = min(report.epochs, key=lambda epoch: epoch.eval_loss)
    assert (report.best.step, report.best.weights) == (best.step, best.weights)
    (_, trained, averaged, _), model = found[-1], report.model
    assert averaged < trained
    assert model.weights is Weights.EMA
    assert model.metrics["eval_loss"] == model.metrics["test_loss"] == averaged
    assert not any("ema" in name or "trained" in name for name in model.metrics)
    assert error_of(made, VALIDATION) == pytest.approx(model.metrics["eval_rmse"], rel=1e-5)
    sentence = (
        f"the averaged weights (EMA) of step 48 are published: eval_loss {averaged:g};"
        f" of the trained ones it is {trained:g}"
    )
    assert sentence in report.message
    assert sentence in made.log
    card = (made.model_dir / "README.md").read_text()
    assert sentence.removeprefix("the ") in card
    assert "| trained_loss | ema_loss | weights |" in card
    lines = [json.loads(line) for line in (made.model_dir / "metrics.jsonl").read_text().splitlines()]
    last = [entry for entry in lines if entry["event"] == "evaluation"][-1]
    assert (last["eval_trained_loss"], last["eval_ema_loss"], last["weights"]) == (trained, averaged, "EMA")


def test_trained_weights_that_are_better_are_published_and_that_is_said(noisy):
    made = noisy(plan={"optimizer": {"learningRate": 5e-3}, "epochs": 2})
    assert made.run_apart() == ExitCode.DONE, made.log
    report = recorded(made)
    (_, trained, averaged, chosen), model = evaluated(report)[-1], report.model
    assert trained < averaged
    assert chosen is model.weights is Weights.TRAINED
    assert model.metrics["eval_loss"] == model.metrics["test_loss"] == trained
    assert error_of(made, VALIDATION) == pytest.approx(model.metrics["eval_rmse"], rel=1e-5)
    assert (
        f"the trained weights of step 32 are published: eval_loss {trained:g}; of the averaged ones (EMA) it is"
        f" {averaged:g}, which is not better"
    ) in report.message


def test_the_averaged_weights_of_the_best_evaluation_are_restored(noisy):
    made = noisy(plan=STOPPING)
    assert made.run_apart() == ExitCode.DONE, made.log
    report = recorded(made)
    best = min(report.epochs, key=lambda epoch: epoch.eval_loss)
    assert best.step < report.epochs[-1].step
    assert (report.best.step, report.model.weights) == (best.step, best.weights)
    assert report.model.metrics["eval_loss"] == report.model.metrics["test_loss"] == best.eval_loss
    assert error_of(made, VALIDATION) == pytest.approx(best.metrics["rmse"], rel=1e-5)


def test_training_is_that_of_a_run_without_an_average(noisy):
    plain, averaged = noisy("plain", {"ema": None}), noisy("averaged")
    assert plain.run_apart() == averaged.run_apart() == ExitCode.DONE
    expected = [(epoch.step, epoch.train_loss, epoch.eval_loss) for epoch in recorded(plain).epochs]
    found = [(e.step, e.train_loss, e.metrics["trained_loss"]) for e in recorded(averaged).epochs]
    assert found == expected
    assert plain.report.model.weights is None
    assert all(epoch.weights is None for epoch in recorded(plain).epochs)


KILLS = [
    lambda: do_at("step", 4, die),
    lambda: do_at("step", 9, die),
    lambda: kill_in_evaluation(2),
    lambda: do_at("save", 14, die),
    lambda: do_at("step", 11, die),
    lambda: do_at("publish", 2, die),
]
"""Before the first checkpoint, after some, while the averaged weights are evaluated, in a save, in the publication."""


@pytest.mark.parametrize("plan", [{}, STOPPING, {"ema": {"decay": 0.99, "every": 3}, "microBatchSize": 3}])
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(noisy, plan):
    undisturbed, made = noisy("undisturbed", plan), noisy("killed", plan)
    assert undisturbed.run_apart() == ExitCode.DONE, undisturbed.log
    for attempt, kill in enumerate(KILLS, start=1):
        made = made.changed({"job": {"attempt": attempt}})
        assert made.run_apart(kill) == -signal.SIGKILL, made.log
    made = made.changed({"job": {"attempt": len(KILLS) + 1}})
    assert made.run_apart() == ExitCode.DONE, made.log
    assert made.report.from_step > 40
    assert digest(made) == digest(undisturbed)
    assert reported(recorded(made)) == reported(recorded(undisturbed))


def stop_in_evaluation(number):
    """Signal the process at its n-th batch of an evaluation."""
    import torch

    real, count = torch.inference_mode, iter(range(1, 10**9))

    def inference_mode():
        if next(count) == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return real()

    torch.inference_mode = inference_mode


def test_a_stop_while_the_averaged_weights_are_evaluated_saves_the_trained_ones(noisy):
    undisturbed, made = noisy("undisturbed"), noisy("stopped")
    assert undisturbed.run_apart() == ExitCode.DONE
    assert made.run_apart(lambda: stop_in_evaluation(2)) == ExitCode.INTERRUPTED, made.log
    assert made.report.message == "stopped by SIGTERM at step 8; checkpoint saved"
    assert made.run_apart() == ExitCode.DONE
    assert made.report.from_step == 8
    assert digest(made) == digest(undisturbed)
    assert reported(recorded(made)) == reported(recorded(undisturbed))


@pytest.mark.parametrize("before", [{"ema": None}, {"ema": {"decay": 0.8}}])
def test_a_checkpoint_without_this_average_is_not_resumed_and_that_is_said(noisy, before):
    assert noisy(plan=before).run_apart(lambda: do_at("step", 12, die)) == -signal.SIGKILL
    made = noisy()
    assert made.run_apart() == ExitCode.DONE
    assert made.report.from_step == 0
    assert "checkpoint step-00000010 is skipped: it was written for another configuration" in made.log


def test_a_damaged_average_costs_steps_but_not_exactness(noisy):
    undisturbed, made = noisy("undisturbed"), noisy("damaged")
    assert undisturbed.run_apart() == ExitCode.DONE
    assert made.run_apart(lambda: do_at("step", 12, die)) == -signal.SIGKILL
    path = made.checkpoint_dir / "step-00000010" / "ema.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert made.run_apart() == ExitCode.DONE
    assert "checkpoint step-00000010 is skipped: ema.safetensors is damaged" in made.log
    assert made.report.from_step == 5
    assert digest(made) == digest(undisturbed)


def test_without_the_best_checkpoint_the_better_weights_of_the_last_step_are_published(noisy):
    def damage_each_average():
        real = os.rename

        def rename(source, target):
            real(source, target)
            if "step-" in str(target):
                (Path(target) / "ema.safetensors").write_bytes(b"damaged")

        os.rename = rename

    made = noisy(plan=STOPPING)
    assert made.run_apart(damage_each_average) == ExitCode.DONE, made.log
    report, last = made.report, recorded(made).epochs[-1]
    assert report.best.step < last.step
    assert f"the checkpoint of step {report.best.step}, the best one, is lost or damaged" in made.log
    assert report.model.weights is last.weights is Weights.EMA
    assert report.model.metrics["eval_loss"] == report.model.metrics["test_loss"] == last.eval_loss


PLANS = {
    "LoRA, merged": {"model": {"adapter": {"lora": {"rank": 4, "dropout": 0.0, "merge": True}}}},
    "LoRA": {"model": {"adapter": {"lora": {"rank": 4, "dropout": 0.1}}}},
    "gradual unfreezing": {
        "model": {"freeze": {"embeddings": True, "layers": 2, "unfreezeEvery": {"steps": 9}}}
    },
    "batch normalisation": {"model": {"head": {"hiddenSizes": [16], "batchNorm": True}}},
    "accumulation": {"training": {"microBatchSize": 1}},
    "published in bfloat16": {"output": {"dtype": "BFloat16"}},
}


@pytest.mark.parametrize("plan", PLANS)
def test_whatever_is_trained_what_is_published_is_what_was_scored(noisy, plan):
    """The test rows, scored at the end, are the validation rows."""
    made = noisy(plan=STOPPING | {"earlyStopping": {"patience": 3}}, **PLANS[plan])
    assert made.run_apart() == ExitCode.DONE, made.log
    model, rounded = made.report.model, "bfloat16" in plan
    best = min(recorded(made).epochs, key=lambda epoch: epoch.eval_loss)
    assert model.weights is best.weights
    assert model.metrics["eval_loss"] == pytest.approx(best.eval_loss, rel=1e-2 if rounded else 1e-5)
    assert model.metrics["eval_loss"] == model.metrics["test_loss"]
    averaged = [epoch for epoch in recorded(made).epochs if epoch.weights is Weights.EMA]
    assert averaged, "the plan is not noisy enough to show anything"


def test_the_average_is_in_float32_though_bfloat16_computes(noisy):
    from safetensors.torch import load_file

    made = noisy(plan={"precision": "BFloat16", "epochs": 1})

    def compute_then_die():
        import torch

        torch.cpu.get_capabilities = lambda: {"avx512_bf16": True}
        do_at("step", 12, die)

    assert made.run_apart(compute_then_die) == -signal.SIGKILL, made.log
    assert "computing on cpu in BFloat16" in made.log
    saved = load_file(made.checkpoint_dir / "step-00000010" / "ema.safetensors")
    assert {str(value.dtype) for value in saved.values() if value.ndim} == {"torch.float32"}
    assert saved["updates"].item() == 10


def test_of_an_adapter_only_what_is_trained_is_averaged(noisy):
    from safetensors.torch import load_file

    made = noisy(plan={"epochs": 1}, **PLANS["LoRA"])
    assert made.run_apart(lambda: do_at("step", 12, die)) == -signal.SIGKILL, made.log
    names = load_file(made.checkpoint_dir / "step-00000010" / "ema.safetensors").keys() - {"updates"}
    assert names
    assert all("lora_" in name or "classifier" in name or "pooler" in name for name in names)


def test_an_average_that_would_never_start_ends_the_run_before_its_first_step(noisy):
    made = noisy(plan={"ema": {"every": 49}})
    assert made.run_apart() == ExitCode.CONFIGURATION
    assert made.report.place.field == "training.ema.every"
    assert "training.ema.every is 49, but the run has only 48 optimizer steps" in made.report.message
    assert "evaluation at step" not in made.log


def test_an_evaluation_before_the_first_update_has_the_trained_weights_alone(noisy):
    made = noisy(plan={"ema": {"every": 48}})
    assert made.run_apart() == ExitCode.DONE, made.log
    *early, last = recorded(made).epochs
    assert all((e.weights, "ema_loss" in e.metrics) == (Weights.TRAINED, False) for e in early)
    assert last.metrics["ema_loss"] == last.metrics["trained_loss"]
    assert made.report.model.weights is Weights.TRAINED


def test_updates_are_those_of_steps_that_were_taken():
    import torch

    from finetune_trainer.training.loop import train_step

    run, state = a_run(maxSteps=6, ema={"decay": 0.5}, onNonFinite={"action": "SkipStep", "limit": 9})
    assert train_step(run, state) is not None
    before = averages(run.average)
    weight = run.task.model.classifier.bias
    kept = weight.detach().clone()
    weight.data.fill_(math.nan)
    assert train_step(run, state) is None
    weight.data.copy_(kept)
    assert (state.step, state.nonfinite, run.average.updates) == (2, 1, 1)
    assert all(np.array_equal(value, before[name]) for name, value in averages(run.average).items())
    assert train_step(run, state) is not None
    assert run.average.updates == 2
    assert torch.isfinite(weight).all()


def test_a_rollback_takes_the_average_back_too(noisy):
    """Step 6 makes the weights explode, so its checkpoint has them, in the average too, and that of step 4 is taken."""
    plan = {
        "onNonFinite": {"action": "Rollback", "learningRateFactor": 1.0},
        "checkpoint": {"every": {"steps": 2}, "keep": 2},
        "gradientClipping": {"maxNorm": 1.0},
        "epochs": 1,
    }
    undisturbed, made = noisy("undisturbed", plan), noisy("exploded", plan)
    assert undisturbed.run_apart() == ExitCode.DONE
    assert made.run_apart(lambda: explode(6, blow_up)) == ExitCode.DONE, made.log
    assert returns(made) == [4]
    assert evaluated(recorded(made)) == evaluated(recorded(undisturbed))
    assert digest(made) == digest(undisturbed)


def blow_up(matrices):
    """Finite outputs, whose squared loss is not."""
    matrices[-1].mul_(1e30)


def test_a_rollback_to_the_start_begins_the_average_anew_after_a_crash_too(make_job):
    def job_of(name):
        rows = [row | {"rating": 5e15 * row["rating"]} for row in reviews(64)]
        made = make_job(name, rows=rows, training=DIVERGING | {"ema": {"decay": 0.9}}, **REGRESSION)
        part = {"path": str(write_jsonl(made.folder / "validation.jsonl", VALIDATION))}
        return made.changed({"dataset": {"validation": part}})

    undisturbed, made = job_of("undisturbed"), job_of("killed")
    assert undisturbed.run_apart() == ExitCode.DONE, undisturbed.log
    assert returns(undisturbed) == [0]
    assert made.run_apart(lambda: do_at("step", 12, die)) == -signal.SIGKILL
    assert made.changed({"job": {"attempt": 2}}).run_apart() == ExitCode.DONE
    assert digest(made) == digest(undisturbed)
    assert reported(recorded(made)) == reported(recorded(undisturbed))


PLAN = {
    "maxSteps": 6,
    "batchSize": 7,
    "microBatchSize": 3,
    "ema": {"decay": 0.9, "every": 2},
    "optimizer": {"name": "SGD", "learningRate": 0.5, "weightDecay": 0.0},
    "evaluation": {"every": {"steps": 3}},
    "checkpoint": {"every": {"steps": 3}},
}


def trained(ranks=None, save=lambda _: None):
    """A trained run, with what was evaluated."""
    from finetune_trainer.training.loop import train

    run, state = a_run("classification", ranks, save=save, **PLAN)
    train(run, state)
    return run, [
        (e.step, e.weights, e.metrics["trained_loss"], e.metrics["ema_loss"]) for e in state.evaluations
    ]


@pytest.mark.parametrize(("world", "sharding"), [(2, "None"), (2, "Full"), (3, "Full")])
def test_the_average_of_several_ranks_is_that_of_one_process(tmp_path, world, sharding):
    """Of 3 ranks some have no row of a matrix with two."""

    def body(ranks):
        run, evaluations = trained(ranks)
        return weights(run), averages(run.average), evaluations

    run, evaluations = trained()
    expected, average = weights(run), averages(run.average)
    assert largest_difference({name: expected[name] for name in average}, average) > 1e-3
    for their_weights, their_average, theirs in on_ranks(world, body, tmp_path, Sharding(sharding)):
        assert largest_difference(expected, their_weights) < 1e-6
        assert largest_difference(average, their_average) < 1e-6
        assert [one[:2] for one in theirs] == [one[:2] for one in evaluations]
        assert [one[2:] for one in theirs] == [pytest.approx(one[2:], abs=1e-5) for one in evaluations]


@pytest.mark.parametrize("sharding", list(Sharding))
def test_an_average_of_two_ranks_resumes_on_them_and_on_one(tmp_path, sharding):
    from finetune_trainer.training.loop import train

    folder = tmp_path / "checkpoints"

    def body(ranks):
        run, state = a_run("classification", ranks, **PLAN)
        run.checkpoints = checkpoints_in(folder, run)
        train(run, state)
        undisturbed = averages(run.average)
        run, _ = a_run("classification", ranks, **PLAN)
        run.checkpoints = checkpoints_in(folder, run)
        train(run, run.checkpoints.restore(before=4))
        assert all(np.array_equal(undisturbed[name], value) for name, value in averages(run.average).items())
        return undisturbed

    average = on_ranks(2, body, tmp_path, sharding)[0]
    alone, _ = a_run("classification", **PLAN)
    alone.checkpoints = checkpoints_in(folder, alone)
    state = alone.checkpoints.restore(before=4)
    assert (state.step, alone.average.updates) == (3, 1)
    train(alone, state)
    assert largest_difference(average, averages(alone.average)) < 1e-6


@pytest.mark.parametrize("plan", ["batch normalisation", "LoRA, merged"])
def test_a_divided_model_publishes_its_average_and_resumes_exactly(noisy, plan):
    undisturbed, killed = (
        sharded(noisy(name, {"epochs": None, "maxSteps": 24}, **PLANS[plan]))
        for name in ("undisturbed", "killed")
    )
    assert undisturbed.run_ranks() == [ExitCode.DONE] * 2, undisturbed.log
    codes = killed.run_ranks(before=lambda rank: kill_before_step(13) if rank else None)
    assert codes == [ExitCode.PEER_LOST, -signal.SIGKILL], killed.log
    assert killed.run_ranks() == [ExitCode.DONE] * 2, killed.log
    assert killed.report_of(0).from_step == 10
    assert digest(killed) == digest(undisturbed)
    report = recorded(killed)
    assert reported(report) == reported(recorded(undisturbed))
    assert report.model.weights is Weights.EMA
    assert report.model.metrics["eval_loss"] == report.model.metrics["test_loss"]
    if plan == "LoRA, merged":
        assert error_of(killed, VALIDATION) == pytest.approx(report.model.metrics["eval_rmse"], rel=1e-5)


@pytest.mark.parametrize(
    ("metric", "trained_value", "averaged_value", "chosen"),
    [
        ("eval_loss", 0.4, 0.3, "EMA"),
        ("loss", 0.4, 0.4, "Trained"),
        ("loss", 0.4, 0.5, "Trained"),
        ("loss", math.nan, 0.5, "EMA"),
        ("loss", 0.5, math.nan, "Trained"),
        ("loss", 0.5, -math.inf, "Trained"),
        ("loss", math.nan, math.nan, "Trained"),
        ("accuracy", 0.4, 0.5, "EMA"),
        ("eval_accuracy", 0.5, 0.4, "Trained"),
    ],
)
def test_the_better_weights_are_those_with_the_better_number(metric, trained_value, averaged_value, chosen):
    key = metric.removeprefix("eval_")
    trained_scores = {"loss": 1.0, "accuracy": 0.1, key: trained_value}
    averaged_scores = {"loss": 2.0, "accuracy": 0.2, key: averaged_value}
    found = better_of(metric, trained_scores, averaged_scores)
    assert found.weights == chosen
    assert found.scores is (averaged_scores if chosen == "EMA" else trained_scores)
    names = ["trained_loss", "ema_loss", *([f"trained_{key}", f"ema_{key}"] if key != "loss" else [])]
    assert list(found.compared) == names
    assert found.compared[f"trained_{key}"] is trained_value
    assert found.compared[f"ema_{key}"] is averaged_value


def test_the_choice_is_a_sentence_with_both_values():
    metrics = {"f1": 0.5, "trained_loss": 0.3, "ema_loss": 0.25}
    entry = EpochStatus(epoch=1, step=9, eval_loss=0.25, metrics=metrics, weights=Weights.EMA)
    assert choice_sentence(entry, "eval_loss", 4) == (
        "the averaged weights (EMA) of step 9 are published: eval_loss 0.25; of the trained ones it is 0.3"
    )
    entry = EpochStatus(epoch=1, step=9, metrics={"trained_f1": 0.5}, weights=Weights.TRAINED)
    assert choice_sentence(entry, "f1", 4) == (
        "the trained weights of step 9 are published: eval_f1 0.5; of the averaged ones (EMA) it is undefined,"
        " which is not better"
    )
    assert choice_sentence(entry, "f1", 0) == (
        "the trained weights of step 9 are published: the average (training.ema) had no update"
    )
    assert own_metrics(entry.model_copy(update={"metrics": metrics})) == {"f1": 0.5}
