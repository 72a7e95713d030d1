"""Several models as one: the rules by hand, the folders as others load them, and members that do not fit."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from finetune_api.combine import SOUPS, CombineRule
from finetune_api.run import ExitCode
from unit.trainer.combine.members import (
    HEAD,
    RATING,
    TEST,
    TOPICS,
    WORDS,
    accuracy,
    in_folder,
    logits_of,
    recited,
)
from unit.trainer.tiny import job, merged, reviews, write_jsonl


def test_members_with_a_head_of_their_own_are_known_by_the_file_that_a_head_writes():
    from finetune_trainer.combine.members import HEAD
    from finetune_trainer.shipped.custom_head import DESCRIPTION

    assert HEAD == DESCRIPTION


def test_an_ensemble_is_known_by_the_file_that_an_ensemble_writes():
    from finetune_trainer.combine.members import MANIFEST
    from finetune_trainer.shipped import ensemble

    assert MANIFEST == ensemble.MANIFEST


def test_there_is_a_combiner_for_every_rule():
    from finetune_trainer.combine.card import HOW
    from finetune_trainer.combine.combiners import COMBINERS
    from finetune_trainer.shipped.ensemble import RULES

    assert set(COMBINERS) == set(HOW) == set(CombineRule)
    assert {*RULES, *SOUPS, CombineRule.DISTIL} == set(CombineRule)


def rule(name, members, several=False):
    import torch

    from finetune_trainer.shipped.ensemble import RULES

    return RULES[name](torch.tensor(members), several)


def log(*probabilities):
    import math

    return [math.log(p) for p in probabilities]


def test_average_probabilities_by_hand():
    joint = rule("AverageProbabilities", [[log(0.9, 0.1)], [log(0.2, 0.8)], [log(0.4, 0.6)]])
    assert joint.exp().tolist()[0] == pytest.approx([0.5, 0.5])
    several = rule("AverageProbabilities", [[[0.0, 2.0]], [[0.0, -2.0]]], several=True)
    assert several.sigmoid().tolist()[0] == pytest.approx([0.5, 0.5])


def test_certain_members_give_finite_numbers():
    for several in (False, True):
        assert rule("AverageProbabilities", [[[200.0, -200.0]], [[200.0, -200.0]]], several).isfinite().all()


def test_votes_by_hand():
    """One sure member against two that are not: the mean would follow the one, the vote follows the two."""
    members = [[log(0.98, 0.02)], [log(0.4, 0.6)], [log(0.4, 0.6)]]
    assert rule("AverageProbabilities", members).argmax(-1).tolist() == [0]
    assert rule("Vote", members).argmax(-1).tolist() == [1]
    assert rule("Vote", members[:2]).argmax(-1).tolist() == [0], "a tie goes to the more probable"
    several = [[[5.0, -0.1, 0.1]], [[-0.1, -0.1, 0.1]], [[-0.1, 5.0, -9.0]]]
    assert (rule("Vote", several, several=True) >= 0).tolist() == [[False, False, True]]
    assert (rule("Vote", several[:2], several=True) >= 0).tolist() == [[True, False, True]]


def test_average_predictions_by_hand():
    assert rule("AveragePredictions", [[[1.0]], [[4.0]]]).tolist() == [[2.5]]


def test_an_ensembles_folder_answers_by_its_own_loader_as_the_report_says(combine, trio):
    code, report, folder = combine(trio, "AverageProbabilities")
    assert code == ExitCode.DONE, report.message
    logits = logits_of(trio)
    mean = logits.softmax(-1).mean(0)
    metrics, each = report.model.metrics, [accuracy(one.argmax(-1)) for one in logits]
    assert metrics["test_accuracy"] == pytest.approx(accuracy(mean.argmax(-1)))
    assert metrics["test_accuracy_mean_member"] == pytest.approx(sum(each) / 3, rel=1e-5)
    assert metrics["test_accuracy_best_member"] == pytest.approx(max(each))
    chosen = [mean[n, int(row["label"] == "pos")] for n, row in enumerate(TEST)]
    assert metrics["test_loss"] == pytest.approx(-sum(p.log() for p in chosen).item() / len(chosen), rel=1e-4)
    assert metrics["test_loss_best_member"] <= metrics["test_loss_mean_member"]
    assert metrics["test_accuracy"] > 0.8
    assert in_folder(folder).softmax(-1).numpy() == pytest.approx(mean.numpy(), abs=1e-5)


def test_the_manifest_names_the_members_with_their_digests_and_metrics(combine, trio):
    _, report, folder = combine(trio, "Vote")
    manifest = json.loads((folder / "ensemble.json").read_text())
    assert (manifest["combine"], manifest["objective"]) == ("Vote", "classification")
    for number, (member, made) in enumerate(zip(manifest["members"], trio, strict=True)):
        sums = subprocess.check_output(["sha256sum", str(made / "SHA256SUMS")], text=True).split()[0]
        assert (member["uri"], member["digest"]) == (f"pvc://models/{number}", f"sha256:{sums}")
        assert member["folder"] == f"members/{number}"
        copied = folder / member["folder"] / "model.safetensors"
        assert copied.read_bytes() == (made / "model.safetensors").read_bytes()
    best = max(member["metrics"]["test_accuracy"] for member in manifest["members"])
    assert report.model.metrics["test_accuracy_best_member"] == best
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    assert (report.model.format, report.model.base_model) == ("ensemble", "pvc://models/tiny")
    assert not (folder.parent / "uid-9").exists()


def test_votes_have_no_loss(combine, trio):
    code, report, folder = combine(trio, "Vote")
    assert code == ExitCode.DONE, report.message
    votes = logits_of(trio).argmax(-1).sum(0) > 1
    assert report.model.metrics["test_accuracy"] == pytest.approx(accuracy(votes.long()))
    assert not [name for name in report.model.metrics if "loss" in name]
    assert (recited(folder).argmax(-1) == votes.long()).all()


def test_a_soup_is_an_ordinary_model_with_the_mean_of_the_weights(combine, trio):
    from safetensors.torch import load_file

    code, report, folder = combine(trio, "AverageWeights")
    assert code == ExitCode.DONE, report.message
    members = [load_file(each / "model.safetensors") for each in trio]
    soup = load_file(folder / "model.safetensors")
    for name, tensor in soup.items():
        mean = sum(member[name].double() for member in members) / 3
        assert (tensor == mean.float()).all(), name
    assert soup.keys() == members[0].keys()
    (logits,) = logits_of([folder])
    assert report.model.metrics["test_accuracy"] == pytest.approx(accuracy(logits.argmax(-1)))
    assert report.model.format == "safetensors"
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        assert json.loads((folder / name).read_text()) == json.loads((trio[0] / name).read_text()), name


def test_three_times_the_same_member_changes_nothing(combine, trio):
    for rule in ("AverageWeights", "AverageProbabilities", "Vote"):
        code, report, _ = combine([trio[0]] * 3, rule, name=rule)
        assert code == ExitCode.DONE
        for name, value in report.model.metrics.items():
            assert value == pytest.approx(report.model.metrics[f"test_{name.split('_')[1]}"], rel=1e-5)


def test_numbers_are_averaged_in_their_original_unit(combine, train):
    pair = [train(f"rating-{seed}", seed, **RATING) for seed in (1, 2)]
    changes = {**RATING, "metrics": ["mse", "pearson"]}
    code, report, folder = combine(pair, "AveragePredictions", **changes)
    assert code == ExitCode.DONE, report.message
    mean = logits_of(pair).mean(0)[:, 0]
    errors = [(value - row["rating"]) ** 2 for value, row in zip(mean.tolist(), TEST, strict=True)]
    assert report.model.metrics["test_mse"] == pytest.approx(sum(errors) / len(errors), rel=1e-4)
    assert report.model.metrics["test_mse"] <= report.model.metrics["test_mse_mean_member"]
    assert recited(folder)[:, 0].tolist() == pytest.approx(mean.tolist(), abs=1e-4)


@pytest.mark.parametrize("rule", ["AverageProbabilities", "Vote"])
def test_several_labels_are_decided_one_by_one(combine, train, rule):
    pair = [train(f"topics-{seed}", seed, **TOPICS) for seed in (1, 2)]
    code, report, folder = combine(pair, rule, **TOPICS)
    assert code == ExitCode.DONE, report.message
    mean = logits_of(pair).sigmoid().mean(0)  # of two members it breaks a vote's ties too
    names = sorted({topic for row in reviews(64) for topic in row["topics"]})
    right = [
        {names[i] for i, p in enumerate(line) if p >= 0.5} == set(row["topics"])
        for line, row in zip(mean.tolist(), TEST, strict=True)
    ]
    assert report.model.metrics["test_accuracy"] == pytest.approx(sum(right) / len(right))
    assert ((recited(folder) >= 0) == (mean >= 0.5)).all()


@pytest.mark.parametrize("rule", ["AverageProbabilities", "Vote", "AverageWeights"])
def test_words_are_labelled_together(combine, train, rule):
    import torch

    trio = [train(f"words-{seed}", seed, **WORDS) for seed in (1, 2, 3)]
    code, report, folder = combine(trio, rule, **WORDS)
    assert code == ExitCode.DONE, report.message
    if rule == "AverageWeights":
        decided = logits_of([folder], kind="AutoModelForTokenClassification")[0].argmax(-1)
    else:
        logits = logits_of(trio, kind="AutoModelForTokenClassification")
        mean = logits.softmax(-1).mean(0)
        votes = torch.nn.functional.one_hot(logits.argmax(-1), 3).sum(0)
        decided = (mean if rule == "AverageProbabilities" else votes + 0.5 * mean).argmax(-1)
        assert (recited(folder).argmax(-1) == decided)[:, :3].all()
    tags = ["BAD", "GOOD", "O"]  # every word of these rows is one token, after [CLS]
    hits = [
        tags[i] == tag
        for line, row in zip(decided.tolist(), TEST, strict=True)
        for i, tag in zip(line[1:], row["tags"], strict=False)
    ]
    assert report.model.metrics["test_accuracy"] == pytest.approx(sum(hits) / len(hits))


@pytest.mark.parametrize("rule", ["AverageProbabilities", "AverageWeights"])
def test_heads_of_ones_own_are_combined_too(combine, train, tmp_path, rule):
    pair = [train(f"head-{seed}", seed, **HEAD) for seed in (1, 2)]
    rows = write_jsonl(tmp_path / "train.jsonl", reviews(64))
    code, report, folder = combine(pair, rule, dataset={"train": {"path": str(rows)}})
    assert code == ExitCode.DONE, report.message
    answered = in_folder(folder, "ensemble" if rule == "AverageProbabilities" else "custom_head")
    assert report.model.metrics["test_accuracy"] == pytest.approx(accuracy(answered.argmax(-1)))


def test_the_snippet_of_the_card_runs_in_the_folder(combine, trio, monkeypatch, capsys):
    for rule in ("AverageProbabilities", "AverageWeights"):
        _, _, folder = combine(trio, rule, name=rule)
        card = (folder / "README.md").read_text()
        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend(str(folder))
        capsys.readouterr()
        exec(compile(card.split("```python\n")[1].split("```")[0], "README.md", "exec"), {})
        assert capsys.readouterr().out.strip() in ("['neg']", "['pos']")
        assert "| **together** |" in card


def test_validation_and_test_rows_are_told_apart(combine, trio, tmp_path):
    rows = write_jsonl(tmp_path / "validation.jsonl", reviews(30, start=900))
    code, report, _ = combine(trio, "Vote", dataset={"validation": {"path": str(rows)}})
    assert code == ExitCode.DONE
    assert {"eval_accuracy", "eval_accuracy_mean_member", "test_f1_best_member"} <= set(report.model.metrics)
    assert (report.resolved.validation.rows, report.resolved.test.rows) == (30, 40)


def test_a_combination_that_is_there_is_reported_again_and_that_of_others_never_replaced(combine, trio):
    _, first, folder = combine(trio, "Vote")
    code, again, _ = combine(trio, "Vote", job={"attempt": 2})
    assert (code, again.model) == (ExitCode.DONE, first.model)
    code, report, _ = combine(trio, "AverageWeights")
    assert code == ExitCode.NOT_FOUND
    assert "an earlier run of this job with another configuration" in report.message
    assert json.loads((folder / "ensemble.json").read_text())["combine"] == "Vote"


def test_staging_around_the_folder_is_refused(combine, trio, tmp_path):
    around = {"stagingDir": str(tmp_path / "combined")}
    code, report, folder = combine(trio[:2], "Vote", output=around)
    assert code == ExitCode.CONFIGURATION
    assert f"output.stagingDir: {folder.parent} holds output.modelDir, {folder};" in report.message


def test_fields_are_changed_on_the_command_line(combine, trio):
    code, report, _ = combine(trio, "Vote", "--set", "combine=AverageWeights", "--set=precision=Float32")
    assert (code, report.model.format) == (ExitCode.DONE, "safetensors")
    code, report, _ = combine(trio, "Vote", "--set", "combine=Mean", name="other")
    assert (code, report.place.field) == (ExitCode.CONFIGURATION, "combine")


@pytest.fixture
def deberta(tmp_path, model_folder):
    """A model that overflows in bfloat16, with the tokenizer of the others."""
    from transformers import BertConfig, DebertaConfig, DebertaModel

    folder = tmp_path / "deberta"
    shutil.copytree(model_folder, folder)
    base = BertConfig.from_pretrained(model_folder)
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    DebertaModel(DebertaConfig(**{name: getattr(base, name) for name in names})).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("precision", ["Auto", "BFloat16"])
def test_a_member_that_bfloat16_overflows_is_scored_in_float32(
    combine, trio, tmp_path, monkeypatch, deberta, precision
):
    from finetune_trainer.process import devices

    other = job(tmp_path / "other", deberta, reviews(64), training={"epochs": 1})
    assert other.run() == ExitCode.DONE, other.report.message
    monkeypatch.setattr(devices, "_computes_bfloat16", lambda _: True)
    members = [trio[0], other.model_dir]
    code, report, _ = combine(members, "AverageProbabilities", precision=precision)
    if precision == "Auto":
        assert (code, report.effective.precision) == (ExitCode.DONE, "Float32"), report.message
    else:
        assert (code, report.place.field) == (ExitCode.CONFIGURATION, "precision")
        assert "DebertaForSequenceClassification cannot be computed in bfloat16" in report.message


@pytest.mark.parametrize(("rule", "loaded"), [("AverageWeights", 4), ("GreedySoup", 9)])
def test_one_model_is_in_memory_at_a_time(combine, alike, held_out, monkeypatch, rule, loaded):
    import gc
    import weakref

    from finetune_trainer.combine import scoring

    real, alive = scoring.load, []

    def load(*arguments):
        gc.collect()
        assert [each for each in alive if each() is not None] == []
        task = real(*arguments)
        alive.append(weakref.ref(task.model))
        return task

    monkeypatch.setattr(scoring, "load", load)
    code, report, _ = combine([alike[0]] * 3, rule, dataset=held_out)
    assert code == ExitCode.DONE, report.message
    assert len(alive) == loaded, "each member, those that are tried, those that are kept, and the soup"


def test_a_device_without_room_for_a_member_is_told_with_what_it_needs(combine, trio, monkeypatch):
    import torch

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.nn.Module, "to", full)
    code, report, _ = combine(trio, "Vote")
    assert code == ExitCode.OUT_OF_MEMORY
    assert "MiB parameters); use a smaller model" in report.message


def misfits(train, trio, tmp_path):
    """A second member that does not fit, by what is wrong with it."""
    damaged, stranger = tmp_path / "damaged", tmp_path / "stranger"
    shutil.copytree(trio[1], damaged)
    flipped = bytearray((damaged / "model.safetensors").read_bytes())
    flipped[-1] ^= 1
    (damaged / "model.safetensors").write_bytes(flipped)
    shutil.copytree(trio[1], stranger)
    (stranger / "SHA256SUMS").unlink()
    garbled = tmp_path / "garbled"
    shutil.copytree(trio[1], garbled)
    (garbled / "SHA256SUMS").write_bytes(b"\xff\n\n")
    reordered = {"objective": {"classification": {"labels": ["pos", "neg"]}}}
    added = {"model": {"addTokens": ["mmHg"]}}
    adapted = {"model": {"adapter": {"lora": {}}}}
    return {
        "missing": (lambda: tmp_path / "nowhere", ExitCode.NOT_FOUND, "does not exist; check the path"),
        "damaged": (lambda: damaged, ExitCode.NOT_FOUND, "it is damaged: model.safetensors is damaged"),
        "garbled": (lambda: garbled, ExitCode.NOT_FOUND, "it is damaged"),
        "stranger": (lambda: stranger, ExitCode.NOT_FOUND, "it has no SHA256SUMS"),
        "adapter": (lambda: train("lora", **adapted), ExitCode.NOT_FOUND, "lora.merge: true"),
        "labels": (
            lambda: train("reordered", **reordered),
            ExitCode.CONFIGURATION,
            "its labels are pos, neg",
        ),
        "objective": (lambda: train("rating-1", 1, **RATING), ExitCode.CONFIGURATION, "for regression"),
        "several": (lambda: train("topics-1", 1, **TOPICS), ExitCode.CONFIGURATION, "with multiLabel"),
        "tokenizer": (lambda: train("tokens", **added), ExitCode.CONFIGURATION, "its tokenizer is another"),
        "architecture": (lambda: train("head-1", 1, **HEAD), ExitCode.CONFIGURATION, "(architectures, head)"),
    }


@pytest.mark.parametrize(
    "what",
    [
        "missing",
        "damaged",
        "garbled",
        "stranger",
        "adapter",
        "labels",
        "objective",
        "several",
        "tokenizer",
        "architecture",
    ],
)
def test_a_member_that_does_not_fit_is_named(combine, train, trio, tmp_path, what):
    member, expected, says = misfits(train, trio, tmp_path)[what]
    code, report, folder = combine([trio[0], member()], "AverageWeights")
    assert (code, report.place.field) == (expected, "members.1")
    assert "members.1: pvc://models/1: " in report.message
    assert says in report.message
    assert not folder.exists()


def test_an_ensemble_is_no_member_and_its_own_members_are_named_as_the_remedy(combine, trio):
    _, _, ensemble = combine(trio, "Vote", name="inner")
    code, report, _ = combine([trio[0], ensemble], "Vote")
    assert (code, report.place.field) == (ExitCode.NOT_FOUND, "members.1")
    assert report.message == (
        "members.1: pvc://models/1: it is an ensemble itself; list the models that its ensemble.json names instead"
    )


def test_another_digest_than_the_one_asked_for_is_refused(combine, trio):
    digests = [{"path": str(each), "digest": "sha256:" + "0" * 64} for each in trio]
    code, report, _ = combine(trio, "Vote", members=digests)
    assert (code, report.place.field) == (ExitCode.NOT_FOUND, "members.0")
    assert "not the sha256:000" in report.message


def test_members_that_differ_in_dropout_alone_make_a_soup(combine, train, trio):
    dropped = train("dropout", 4, model={"dropout": 0.3})
    code, report, _ = combine([trio[0], dropped], "AverageWeights")
    assert code == ExitCode.DONE, report.message


def test_language_models_are_combined_by_weights_alone(combine, trio):
    code, report, _ = combine(trio, "Vote", objective={"causalLM": {}}, bestMetric="accuracy")
    assert (code, report.place.field) == (ExitCode.CONFIGURATION, "combine")
    assert report.message == "combine: Vote does not fit causal_lm; use AverageWeights or GreedySoup"


def test_language_models_make_a_soup_that_predicts_the_next_token(combine, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    from unit.trainer.architectures import build

    (tmp_path / "llama").mkdir()
    base = build("llama", tmp_path / "llama")
    changes = {"objective": {"causalLM": {}}, "training": {"epochs": 1}}
    pair = []
    for seed in (1, 2):
        made = job(
            tmp_path / f"lm-{seed}", base, reviews(32), **merged(changes, {"training": {"seed": seed}})
        )
        assert made.run() == ExitCode.DONE, made.report.message
        pair.append(made.model_dir)
    code, report, folder = combine(pair, "AverageWeights", objective=changes["objective"])
    assert code == ExitCode.DONE, report.message
    metrics = report.model.metrics
    assert metrics["test_perplexity"] == pytest.approx(
        torch.tensor(metrics["test_loss"]).exp().item(), rel=1e-4
    )
    soup, first, second = (
        AutoModelForCausalLM.from_pretrained(each).state_dict() for each in (folder, *pair)
    )
    for name, tensor in soup.items():
        assert torch.equal(tensor, ((first[name].double() + second[name].double()) / 2).float()), name


@pytest.mark.parametrize("what", ["missing", "architecture", "batch norm", "other rows"])
def test_members_that_do_not_fit_are_reported_without_importing_torch(
    combine, train, trio, tmp_path, without_torch, what
):
    headed = [train(f"head-{seed}", seed, **HEAD) for seed in (1, 2)]
    rows = {"train": {"path": str(write_jsonl(tmp_path / "train.jsonl", reviews(64)))}}
    members, data, expected = {
        "missing": ([tmp_path / "one", tmp_path / "other"], {}, ExitCode.NOT_FOUND),
        "architecture": ([trio[0], headed[0]], {}, ExitCode.CONFIGURATION),
        "batch norm": (headed, {}, ExitCode.CONFIGURATION),
        "other rows": (trio[:2], rows | {"split": {"fraction": 0.25, "seed": 1}}, ExitCode.CONFIGURATION),
    }[what]
    code, report, folder = combine(members, "AverageWeights", dataset=data, run=without_torch)
    assert code == expected, report.message
    assert not folder.exists()


def test_a_metric_of_another_objective_is_refused(combine, trio):
    code, report, _ = combine(trio, "Vote", metrics=["pearson"])
    assert (code, report.place.field) == (ExitCode.CONFIGURATION, "metrics")


def test_a_row_with_a_label_that_the_members_do_not_know_is_refused(combine, trio, tmp_path):
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"text": "good", "label": "so so"}])
    code, report, _ = combine(trio, "Vote", dataset={"test": {"path": str(rows)}})
    assert (code, report.place.row) == (ExitCode.DATA, 1)
    assert "'so so', which is not one of neg, pos" in report.message


def test_a_stop_leaves_nothing_behind(combine, trio, monkeypatch):
    from finetune_trainer.combine import combiners

    real = combiners.Combiner.add_member

    def add_member(combiner, task):
        os.kill(os.getpid(), signal.SIGTERM)
        real(combiner, task)

    monkeypatch.setattr(combiners.Combiner, "add_member", add_member)
    code, report, folder = combine(trio, "Vote")
    assert (code, report.message) == (ExitCode.INTERRUPTED, "stopped by SIGTERM; nothing was published")
    assert not Path(folder).exists()
