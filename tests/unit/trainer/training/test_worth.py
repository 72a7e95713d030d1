"""The baseline, what training gained over it, and the gate: of whole runs, and of the parts they are made of."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from finetune_api.gate import GateSpec
from finetune_api.objective import RegressionLoss
from finetune_api.run import ExitCode
from finetune_api.status import ImprovementStatus
from finetune_trainer.publishing.gate import why_not_passed
from finetune_trainer.training.constant import constant_of
from finetune_trainer.training.inputs import BASELINE
from unit.trainer.runs import LANGUAGE, OBJECTIVES, examples
from unit.trainer.tiny import job, reviews, write_jsonl
from unit.trainer.training.test_crash import die, digest, do_at

WITH_BASELINE = {"evaluation": {"baseline": True, "metrics": ["accuracy"]}}


TASKS = {name: task for name, task in OBJECTIVES.items() if name not in LANGUAGE} | {
    "weighted labels": replace(OBJECTIVES["several labels"], class_weights=(0.3, 2.0, 5.0)),
    "weighted tokens": replace(
        OBJECTIVES["token classification"], class_weights=(0.2, 3.0, 1.0), label_smoothing=0.2
    ),
    "huber": replace(OBJECTIVES["several targets"], kind=RegressionLoss.HUBER),
}
LIKE = {
    "weighted labels": "several labels",
    "weighted tokens": "token classification",
    "huber": "several targets",
}


@pytest.mark.parametrize("objective", TASKS)
def test_the_constant_prediction_has_the_smallest_mean_loss_of_all_constants(objective):
    task, rows = TASKS[objective], examples(LIKE.get(objective, objective), count=400)
    given = rows.targets * np.array([1.0, 9.0]) ** 2 if objective == "huber" else np.asarray(rows.targets)
    targets = torch.from_numpy(np.asarray(given))
    found = constant_of(task, given)

    def mean_loss(task, outputs):
        shape = (1, len(targets), -1) if task.per_token else (len(targets), -1)
        loss = task.loss(outputs.expand(*shape), targets[None] if task.per_token else targets)
        return (loss.loss_sum / loss.weight).item()

    plain = replace(task, label_smoothing=0.0, class_weights=None) if task.labels else task
    for weighed, outputs in ((task, found.cheapest), (plain, found.likely)):
        if objective == "huber" and outputs is found.likely:
            assert outputs == pytest.approx(given.mean(axis=0), rel=1e-6)
            continue
        best = torch.from_numpy(outputs).double()
        for output in range(len(best)):
            for shift in (-0.1, 0.1):
                other = best.clone()
                other[output] += shift
                assert mean_loss(weighed, other) > mean_loss(weighed, best)


def test_a_model_that_learns_nothing_has_no_smaller_loss_than_the_constant_with_balanced_classes(make_job):
    good, bad = ([row for row in reviews(200) if row["label"] == label] for label in ("pos", "neg"))
    made = make_job(
        "job",
        rows=good + bad[:12],
        objective={"classification": {"classWeights": "Balanced"}},
        training=WITH_BASELINE | {"optimizer": {"learningRate": 1e-9}},
    )
    assert made.run_apart() == ExitCode.DONE
    assert made.report.baseline.metrics["eval_loss"] == pytest.approx(math.log(2), abs=0.01)
    assert made.report.improvement.delta > -0.01


def test_a_new_head_is_compared_with_the_label_frequencies(make_job):
    made = make_job("job", training=WITH_BASELINE)
    assert made.run_apart() == ExitCode.DONE
    report = made.report
    assert report.baseline.kind == "ConstantPrediction"
    assert report.baseline.metrics["eval_loss"] == pytest.approx(math.log(2), abs=0.1)
    found = report.improvement
    assert found.metric == "eval_loss"
    assert found.from_ == report.baseline.metrics["eval_loss"]
    assert found.to == pytest.approx(report.model.metrics["eval_loss"], abs=2e-6)
    assert found.delta == pytest.approx(found.to - found.from_, abs=1e-6)
    assert found.ci95[0] <= found.delta <= found.ci95[1]


def test_a_model_that_has_the_head_already_is_compared_with_itself_before_training(make_job):
    first = make_job("first")
    assert first.run_apart() == ExitCode.DONE
    data = str(write_jsonl(first.folder / "validation.jsonl", reviews(16, start=500)))
    held_out = {"dataset": {"split": None, "validation": {"path": data}}}
    again = make_job("again", training=WITH_BASELINE, model={"path": str(first.model_dir)}, **held_out)
    assert again.run_apart() == ExitCode.DONE
    untrained = make_job("as-it-was", model={"path": str(first.model_dir)}, **held_out).changed(
        {"training": {"optimizer": {"learningRate": 1e-12}}}
    )
    assert untrained.run_apart() == ExitCode.DONE
    assert again.report.baseline.kind == "UntrainedModel"
    as_it_was = untrained.report.model.metrics
    for name, value in again.report.baseline.metrics.items():
        assert value == pytest.approx(as_it_was[name], abs=1e-4)


def test_measuring_the_baseline_changes_no_weight(make_job):
    with_it, without = make_job("with", training=WITH_BASELINE), make_job("without")
    assert with_it.run_apart() == without.run_apart() == ExitCode.DONE
    assert digest(with_it) == digest(without)


@pytest.mark.parametrize("damage", [False, True])
def test_a_resumed_run_knows_the_baseline_of_the_untrained_model(make_job, damage):
    first = make_job("first")
    assert first.run_apart() == ExitCode.DONE
    plan = WITH_BASELINE | {"checkpoint": {"every": {"steps": 3}}}
    whole, killed = (
        make_job(name, training=plan, model={"path": str(first.model_dir)}) for name in ("whole", "killed")
    )
    assert whole.run_apart() == ExitCode.DONE
    assert killed.run_apart(lambda: do_at("step", 8, die)) != ExitCode.DONE
    kept = killed.checkpoint_dir / BASELINE
    if damage:
        kept.write_bytes(kept.read_bytes()[:100])
    assert killed.run_apart() == ExitCode.DONE
    assert ("is damaged" in killed.log) == damage
    assert killed.report.from_step > 0
    assert killed.report.baseline == whole.report.baseline
    assert killed.report.improvement == whole.report.improvement
    assert digest(killed) == digest(whole)
    assert not kept.exists()


def test_two_ranks_measure_what_one_does(make_job):
    one, two = (make_job(name, training=WITH_BASELINE, model={"dropout": 0.0}) for name in ("one", "two"))
    assert one.run_apart() == ExitCode.DONE
    assert two.run_ranks(2) == [ExitCode.DONE, ExitCode.DONE]
    left, right = one.report, two.report_of(0)
    assert right.baseline.metrics == pytest.approx(left.baseline.metrics, abs=1e-5)
    assert right.improvement.to == pytest.approx(left.improvement.to, abs=1e-4)
    assert right.improvement.ci95 == pytest.approx(left.improvement.ci95, abs=1e-3)


def test_a_model_that_does_not_pass_the_gate_is_not_published_and_its_checkpoint_stays(make_job):
    made = make_job("job", training=WITH_BASELINE, gate={"metric": "eval_loss", "max": 1e-9})
    assert made.run_apart() == ExitCode.GATE_NOT_PASSED
    report = made.report
    assert report.model is None
    assert report.message.startswith("spec.gate: eval_loss is ")
    assert "above max 1e-09; the model is not published" in report.message
    assert not made.model_dir.exists()
    assert (
        f"kept in the checkpoint of step {report.epochs[-1].step} in {made.checkpoint_dir}" in report.message
    )
    assert list(made.checkpoint_dir.glob(f"step-*{report.epochs[-1].step}/model.safetensors"))


def test_a_model_that_passes_the_gate_is_published(make_job):
    plan = WITH_BASELINE | {"epochs": 8}
    made = make_job("job", training=plan, gate={"metric": "loss", "betterThanBaselineBy": 0.01})
    assert made.run_apart() == ExitCode.DONE
    assert made.report.improvement.delta <= -0.01


FOUND = ImprovementStatus(metric="eval_accuracy", from_=0.5, to=0.7, delta=0.2)


@pytest.mark.parametrize(
    ("gate", "metrics", "improvement", "reason"),
    [
        ({"metric": "accuracy", "min": 0.7}, {"eval_accuracy": 0.7}, None, None),
        (
            {"metric": "accuracy", "min": 0.71},
            {"eval_accuracy": 0.7},
            None,
            "eval_accuracy is 0.7, below min 0.71",
        ),
        ({"metric": "eval_loss", "max": 0.5}, {"eval_loss": 0.5}, None, None),
        ({"metric": "accuracy", "min": 0}, {}, None, "eval_accuracy is not defined on the validation rows"),
        ({"metric": "accuracy", "betterThanBaselineBy": 0.2}, {"eval_accuracy": 0.7}, FOUND, None),
        (
            {"metric": "accuracy", "betterThanBaselineBy": 0.21},
            {"eval_accuracy": 0.7},
            FOUND,
            "eval_accuracy is 0.7, and 0.5 of the baseline: not better by 0.21",
        ),
        (
            {"metric": "accuracy", "betterThanBaselineBy": 0.1},
            {"eval_accuracy": 0.7},
            None,
            "eval_accuracy of the baseline is not defined",
        ),
        ({"metric": "accuracy", "betterThanBaselineBy": 0}, {"eval_accuracy": 0.7}, FOUND, None),
        (
            {"metric": "accuracy", "betterThanBaselineBy": 0},
            {"eval_accuracy": 0.5},
            FOUND.model_copy(update={"to": 0.5, "delta": 0.0}),
            "eval_accuracy is 0.5, and 0.5 of the baseline: not better",
        ),
    ],
)
def test_the_gate_says_what_is_not_reached(gate, metrics, improvement, reason):
    assert why_not_passed(GateSpec.from_json(gate), metrics, improvement) == reason


def forgetting(made, rows, **spec):
    data = str(write_jsonl(made.folder / "other.jsonl", rows))
    return made.changed(
        {
            "dataset": {"forgetting": [{"path": data, "uri": "pvc://data/other.jsonl"}]},
            "training": {"evaluation": {"forgetting": [{"uri": "pvc://data/other.jsonl"} | spec]}},
        }
    )


def opposite(rows):
    return [row | {"label": "neg" if row["label"] == "pos" else "pos"} for row in rows]


@pytest.fixture(scope="module")
def trained_already(tmp_path_factory, model_folder):
    made = job(tmp_path_factory.mktemp("trained") / "job", model_folder, reviews(64), training={"epochs": 8})
    assert made.run_apart() == ExitCode.DONE
    return str(made.model_dir)


@pytest.mark.parametrize("killed", [False, True])
def test_what_a_model_has_forgotten_is_measured_before_and_after(make_job, trained_already, killed):
    """The labels are turned around: what the model answered rightly before, it answers wrongly after."""
    plan = {"epochs": 8, "checkpoint": {"every": {"steps": 3}}}
    made = make_job(rows=opposite(reviews(64)), training=plan, model={"path": trained_already})
    made = forgetting(made, reviews(64), maxDrop=1000)
    if killed:
        assert made.run_apart(lambda: do_at("step", 20, die)) != ExitCode.DONE
    assert made.run_apart() == ExitCode.DONE, made.report.message
    (found,) = made.report.forgetting
    assert (found.uri, found.rows, found.metric) == ("pvc://data/other.jsonl", 64, "loss")
    assert found.to > found.from_ + 0.1
    assert found.drop == pytest.approx(found.to - found.from_, abs=1e-5)


def test_a_model_that_forgets_more_than_it_may_is_not_published(make_job, trained_already):
    made = make_job(rows=opposite(reviews(64)), training={"epochs": 8}, model={"path": trained_already})
    made = forgetting(made, reviews(64), maxDrop=0.05)
    assert made.run_apart() == ExitCode.GATE_NOT_PASSED
    assert made.report.place.field == "training.evaluation.forgetting[0].maxDrop"
    assert "worse by more than maxDrop 0.05" in made.report.message
    assert made.report.forgetting[0].drop > 0.05
    assert not made.model_dir.exists()


def test_a_new_head_has_nothing_to_forget(make_job):
    made = forgetting(make_job(), reviews(8))
    assert made.run_apart() == ExitCode.CONFIGURATION
    assert "the model's head is new, so it has nothing to forget" in made.report.message


def test_rows_with_other_labels_are_refused(make_job, trained_already):
    made = forgetting(make_job(model={"path": trained_already}), [{"text": "good film", "label": "other"}])
    assert made.run_apart() == ExitCode.DATA
    assert "other.jsonl" in made.report.message
