"""What is published: the combination if it is better than its best member, else that member."""

import json
import subprocess

import numpy as np
import pytest

from finetune_api.run import ExitCode
from finetune_api.status import Published
from unit.trainer.combine.members import HEAD, RATING, accuracy, in_folder, logits_of, noisy
from unit.trainer.tiny import reviews, write_jsonl

IF_BETTER = {"publish": "IfBetter"}


def test_a_combination_that_is_not_better_gives_way_to_its_best_member(combine, alike, held_out):
    """Three times the same member: equal is not better."""
    code, report, folder = combine([alike[0]] * 3, "AverageProbabilities", dataset=held_out, **IF_BETTER)
    assert code == ExitCode.DONE, report.message
    found = report.model.combination
    assert (found.published, found.gain, found.gain_interval) == (Published.BEST_MEMBER, 0, [0, 0])
    assert found.combined == found.best_member == found.mean_member
    assert "that is not better, so the best member is published: pvc://models/0" in report.message
    assert (report.model.format, report.model.base_model) == ("safetensors", "pvc://models/tiny")
    assert (folder / "model.safetensors").read_bytes() == (alike[0] / "model.safetensors").read_bytes()
    assert not (folder / "members").exists()
    assert not (folder / "ensemble.json").exists()
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    record = json.loads((folder / "run.json").read_text())
    assert (record["job"]["uid"], record["config"]["kind"]) == ("uid-9", "CombineConfig")
    (logits,) = logits_of([folder])
    assert report.model.metrics["test_accuracy"] == pytest.approx(accuracy(logits.argmax(-1)))
    assert not [name for name in report.model.metrics if name.endswith("_member")]
    card = (folder / "README.md").read_text()
    assert "AverageProbabilities was not better, so this member was published" in card
    assert f"eval_accuracy {found.combined:.4f}, best member {found.best_member:.4f}" in card


def test_the_best_member_with_a_head_of_its_own_is_used_as_its_card_says(combine, train, held_out):
    member = train("head-alike", 1, dataset={"split": held_out["split"]}, **HEAD)
    code, report, folder = combine([member] * 2, "Vote", dataset=held_out, **IF_BETTER)
    assert (code, report.model.format) == (ExitCode.DONE, "custom-head"), report.message
    assert "from custom_head import load" in (folder / "README.md").read_text()
    answered = in_folder(folder, "custom_head")
    assert report.model.metrics["test_accuracy"] == pytest.approx(accuracy(answered.argmax(-1)))


def test_a_combination_that_is_better_is_published_with_its_figures(combine, alike, held_out, tmp_path):
    """Errors of opposite sign: the mean is better than either."""
    members = [noisy(alike[0], tmp_path, 1, scale, "classifier.bias") for scale in (3.0, -3.0)]
    rows = write_jsonl(tmp_path / "validation.jsonl", reviews(300, start=3000))
    changes = {"dataset": {"validation": {"path": str(rows)}}, "bestMetric": "loss", **IF_BETTER}
    code, report, folder = combine(members, "AverageProbabilities", **changes)
    assert code == ExitCode.DONE, report.message
    found, metrics = report.model.combination, report.model.metrics
    manifest = json.loads((folder / "ensemble.json").read_text())
    each = [member["metrics"]["eval_loss"] for member in manifest["members"]]
    assert found.published is Published.COMBINATION
    assert (found.metric, found.members, found.used) == ("eval_loss", 2, 2)
    assert found.combined == metrics["eval_loss"] < found.best_member == min(each)
    assert found.mean_member == pytest.approx(sum(each) / 2, rel=1e-5)
    assert found.gain == pytest.approx(found.best_member - found.combined, abs=1e-6)
    low, high = found.gain_interval
    assert low <= found.gain <= high
    assert (
        f"gain over the best member {found.gain:.4f} (95 % interval {low:.4f} to {high:.4f})"
        in report.message
    )


def test_always_publishes_a_combination_that_is_worse(combine, alike, held_out, tmp_path):
    worse = noisy(alike[0], tmp_path, 1, 3.0)
    code, report, _ = combine([alike[0], worse], "AverageWeights", dataset=held_out)
    assert code == ExitCode.DONE, report.message
    found = report.model.combination
    assert found.published is Published.COMBINATION
    assert found.gain < 0
    assert found.gain == pytest.approx(found.combined - found.best_member)


def test_a_member_whose_outputs_are_not_finite_never_wins_and_is_said(combine, alike, held_out, tmp_path):
    broken = noisy(alike[1], tmp_path, 1, 1e30)
    changes = {"dataset": held_out, "bestMetric": "loss", **IF_BETTER}
    code, report, folder = combine([broken, alike[0]], "AverageProbabilities", **changes)
    assert code == ExitCode.DONE, report.message
    found = report.model.combination
    assert (found.published, found.combined, found.gain) == (Published.BEST_MEMBER, None, None)
    assert "members.0: pvc://models/0: its eval_loss is not a finite number" in report.message
    assert (folder / "model.safetensors").read_bytes() == (alike[0] / "model.safetensors").read_bytes()


@pytest.mark.parametrize("rule", ["Vote", "AverageProbabilities", "AverageWeights"])
def test_outputs_that_are_not_finite_are_no_wrong_answers_but_none(combine, alike, held_out, tmp_path, rule):
    """By accuracy, an ensemble of NaN would be one that is always wrong, and `Always` would publish it."""
    broken = noisy(alike[1], tmp_path, 1, 1e30)
    changes = {"dataset": held_out, "bestMetric": "accuracy"}
    code, report, folder = combine([broken, alike[0], alike[2]], rule, **changes)
    assert (code, folder.exists()) == (ExitCode.DIVERGED, False), report.message
    code, report, folder = combine([broken, alike[0], alike[2]], rule, name="better", **changes, **IF_BETTER)
    assert code == ExitCode.DONE, report.message
    found = report.model.combination
    assert (found.published, found.combined, found.gain) == (Published.BEST_MEMBER, None, None)
    assert "members.0: pvc://models/0: its eval_accuracy is not a finite number" in report.message
    assert found.mean_member == pytest.approx(np.mean(accuracies(alike[0], alike[2])), rel=1e-5)


def accuracies(*folders):
    records = [json.loads((folder / "run.json").read_text()) for folder in folders]
    return [record["report"]["model"]["metrics"]["eval_accuracy"] for record in records]


def test_members_that_failed_are_named_in_card_and_message(combine, alike, held_out):
    code, report, folder = combine(alike, "Vote", dataset=held_out, missing=["together-m4"], **IF_BETTER)
    assert code == ExitCode.DONE
    sentence = "1 of 4 members failed and is not part of it: together-m4"
    assert sentence in report.message
    assert f"{sentence}." in (folder / "README.md").read_text()


def test_another_rule_of_publishing_is_another_run(combine, alike, held_out):
    combine(alike, "Vote", dataset=held_out)
    code, report, _ = combine(alike, "Vote", dataset=held_out, **IF_BETTER)
    assert code == ExitCode.NOT_FOUND
    assert "an earlier run of this job with another configuration" in report.message


def test_the_tokens_that_members_shared_go_with_the_last_attempt(combine, alike, held_out, tmp_path):
    own = tmp_path / "combined" / "uid-9"
    changes = {"output": {"tokenDir": str(own / "tokens")}}
    for _ in range(2):  # the second finds the model published, as after a kill
        (own / "tokens" / "ab").mkdir(parents=True)
        code, _, folder = combine(alike, "AverageProbabilities", dataset=held_out, **changes)
        assert code == ExitCode.DONE
        assert folder.exists()
        assert not own.exists()


def test_tokens_that_lie_elsewhere_are_not_those_of_the_members(combine, alike, held_out, tmp_path):
    elsewhere = tmp_path / "tokens"
    elsewhere.mkdir()
    code, *_ = combine(alike, "AverageProbabilities", dataset=held_out, output={"tokenDir": str(elsewhere)})
    assert code == ExitCode.DONE
    assert elsewhere.exists()


def test_a_member_that_was_published_is_reported_again(combine, alike, held_out):
    changes = {"dataset": held_out, **IF_BETTER}
    _, first, _ = combine([alike[0]] * 2, "Vote", **changes)
    code, again, _ = combine([alike[0]] * 2, "Vote", job={"attempt": 2}, **changes)
    assert (code, again.model) == (ExitCode.DONE, first.model)
    assert again.model.combination.published is Published.BEST_MEMBER


def test_bestmetric_decides_and_need_not_be_reported_otherwise(combine, alike, held_out):
    changes = {"dataset": held_out, "metrics": ["accuracy"], "bestMetric": "eval_mcc"}
    code, report, _ = combine(alike, "AverageProbabilities", **changes)
    assert code == ExitCode.DONE, report.message
    metrics = report.model.metrics
    assert report.model.combination.metric == "eval_mcc"
    assert metrics["eval_mcc"] == report.model.combination.combined
    assert {"eval_mcc_best_member", "test_mcc"}.isdisjoint(metrics)


def test_a_metric_that_decides_and_is_of_another_objective_is_refused(combine, alike):
    code, report, _ = combine(alike, "Vote", bestMetric="pearson")
    assert (code, report.place.field) == (ExitCode.CONFIGURATION, "bestMetric")


def test_numbers_are_compared_by_their_own_metrics(combine, train, held_out):
    pair = [
        train(
            f"rated-{seed}",
            seed,
            **RATING | {"dataset": {"columns": {"label": "rating"}, "split": held_out["split"]}},
        )
        for seed in (1, 2)
    ]
    changes = {
        "objective": RATING["objective"],
        "dataset": held_out | RATING["dataset"],
        "bestMetric": "pearson",
    }
    code, report, _ = combine(pair, "AveragePredictions", **changes)
    assert code == ExitCode.DONE, report.message
    found = report.model.combination
    assert found.metric == "eval_pearson"
    assert found.gain_interval[0] <= found.gain <= found.gain_interval[1]


@pytest.mark.parametrize("publish", ["IfBetter", "Always"])
def test_what_does_not_pass_the_gate_is_not_published(combine, alike, held_out, publish):
    gate = {"metric": "loss", "max": 1e-9}
    code, report, folder = combine(
        [alike[0]] * 2, "AverageProbabilities", dataset=held_out, gate=gate, publish=publish
    )
    assert code == ExitCode.GATE_NOT_PASSED
    assert report.message.startswith("spec.gate: eval_loss is ")
    assert report.message.endswith("above max 1e-09; the model is not published")
    assert not folder.exists()
