"""Whole runs: what a model's folder holds, that others can use it, and what the report says."""

import json
import os
import random
import subprocess
from pathlib import Path

import pytest

from finetune_api.model import FreezeSpec
from finetune_api.run import TERMINATION_BYTES, ExitCode
from finetune_trainer.models.freezing import freeze
from unit.trainer.tiny import reviews, write_jsonl

FILES = [
    "README.md",
    "SHA256SUMS",
    "config.json",
    "learning-curve.png",
    "metrics.jsonl",
    "model.safetensors",
    "run.json",
    "tokenizer.json",
    "tokenizer_config.json",
]


def with_test_rows(make_job, **changes):
    made = make_job(**changes)
    path = write_jsonl(made.folder / "test.jsonl", reviews(40, start=500))
    return made.changed({"dataset": {"test": {"path": str(path), "uri": "pvc://data/test.jsonl"}}})


def predictions(folder: Path, rows):
    """As any user of transformers would compute them."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(
        [row["text"] for row in rows], padding=True, truncation=True, max_length=32, return_tensors="pt"
    )
    with torch.no_grad():
        return model, model(**inputs).logits


def test_a_classification_run_gives_a_folder_that_plain_transformers_reads_and_agrees_with(make_job):
    made = with_test_rows(make_job, training={"epochs": 8})
    assert made.run() == ExitCode.DONE
    folder, report = made.model_dir, made.report
    assert sorted(path.name for path in folder.iterdir()) == FILES
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    assert not made.checkpoint_dir.exists()
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in folder.iterdir())

    rows = reviews(40, start=500)
    model, logits = predictions(folder, rows)
    assert model.config.id2label == {0: "neg", 1: "pos"}
    assert model.config.problem_type == "single_label_classification"
    hits = [
        model.config.id2label[i] == row["label"]
        for i, row in zip(logits.argmax(-1).tolist(), rows, strict=True)
    ]
    assert report.model.metrics["test_accuracy"] == pytest.approx(sum(hits) / len(hits))
    assert report.model.metrics["test_accuracy"] > 0.8
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    assert (tokenizer["padding"], tokenizer["truncation"]) == (None, None)


def test_a_regression_run_has_one_output_and_agrees_with_plain_transformers(make_job):
    made = with_test_rows(
        make_job,
        objective={"regression": {}},
        dataset={"columns": {"label": "rating"}},
        training={"epochs": 6, "evaluation": {"metrics": ["mse", "pearson", "spearman"]}},
    )
    assert made.run() == ExitCode.DONE
    rows = reviews(40, start=500)
    model, logits = predictions(made.model_dir, rows)
    assert (model.config.num_labels, model.config.problem_type) == (1, "regression")
    errors = [
        (value - row["rating"]) ** 2 for value, row in zip(logits.squeeze(-1).tolist(), rows, strict=True)
    ]
    metrics = made.report.model.metrics
    assert metrics["test_mse"] == pytest.approx(sum(errors) / len(errors), rel=1e-4)
    assert metrics["test_pearson"] > 0.7
    assert set(metrics) == {
        f"{part}_{m}" for part in ("eval", "test") for m in ("loss", "mse", "pearson", "spearman")
    }


def test_the_report_says_what_was_found_done_and_recorded(make_job):
    made = with_test_rows(make_job, job={"attempt": 3})
    assert made.run() == ExitCode.DONE
    from safetensors.torch import load_file

    text = (made.folder / "termination").read_text()
    assert len(text.encode()) <= TERMINATION_BYTES
    report = made.report
    assert (report.exit_code, report.attempt, report.from_step) == (0, 3, 0)
    assert report.message.startswith("trained 12 steps in")
    assert (report.progress.step, report.progress.total_steps, report.progress.percent) == (12, 12, 100)
    assert [(e.epoch, e.step) for e in report.epochs] == [(1.0, 6), (2.0, 12)]
    assert set(report.epochs[0].metrics) == {"accuracy", "f1"}
    assert report.best.metric == "eval_loss"
    assert report.latest.step == 12
    resolved = report.resolved
    assert (resolved.train.rows, resolved.validation.rows, resolved.test.rows) == (48, 16, 40)
    assert resolved.train.digest == resolved.validation.digest != resolved.test.digest
    assert resolved.model.uri == "pvc://models/tiny"
    effective = report.effective
    assert (effective.labels, effective.device, effective.precision) == (["neg", "pos"], "cpu", "Float32")
    assert (effective.micro_batch_size, effective.total_steps, effective.training.epochs) == (4, 12, 2)
    decays, others = effective.parameter_groups
    assert (decays.name, decays.weight_decay, decays.scale) == ("depth 0, decay", 0.01, 1.0)
    assert (others.name, others.weight_decay, others.scale) == ("depth 0, no decay", 0.0, 1.0)
    weights = load_file(made.model_dir / "model.safetensors")
    assert others.parameters == sum(w.numel() for n, w in weights.items() if "bias" in n or "LayerNorm" in n)
    assert decays.parameters + others.parameters == sum(w.numel() for w in weights.values())
    libraries = {"torch", "transformers", "tokenizers", "peft", "safetensors", "numpy"}
    told = json.loads((made.model_dir / "run.json").read_text())["versions"].keys()
    assert told - {"finetune-operator"} == libraries | {"python"}
    model = report.model
    assert (model.uri, model.format, model.base_model) == (
        "pvc://models/out",
        "safetensors",
        "pvc://models/tiny",
    )
    sums = subprocess.check_output(["sha256sum", str(made.model_dir / "SHA256SUMS")], text=True).split()[0]
    assert model.digest == f"sha256:{sums}"
    assert model.files == len(FILES)
    assert model.size_bytes == sum(path.stat().st_size for path in made.model_dir.iterdir())


def test_the_snippet_of_the_card_runs_in_the_folder(make_job, monkeypatch, capsys):
    made = make_job()
    assert made.run() == ExitCode.DONE
    capsys.readouterr()
    card = (made.model_dir / "README.md").read_text()
    monkeypatch.chdir(made.model_dir)
    exec(compile(card.split("```python\n")[1].split("```")[0], "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() in ("['neg']", "['pos']")
    assert "![learning curve](learning-curve.png)" in card
    assert (made.model_dir / "learning-curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_seed_gives_the_same_bytes_and_another_seed_gives_others(make_job):
    digests = []
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        made = make_job(name, training={"seed": seed, "epochs": 1})
        assert made.run() == ExitCode.DONE
        digests.append((made.model_dir / "model.safetensors").read_bytes())
    assert digests[0] == digests[1] != digests[2]


def test_a_published_model_of_the_same_job_is_reported_again_without_training(make_job, capsys):
    made = make_job()
    assert made.run() == ExitCode.DONE
    first = made.report
    (made.folder / "train.jsonl").unlink()
    again = made.changed({"job": {"attempt": 2}})
    assert again.run() == ExitCode.DONE
    assert again.report.model == first.model
    assert (again.report.epochs, again.report.message) == (first.epochs, first.message)
    assert again.report.attempt == 2
    assert "nothing to train" in capsys.readouterr().out
    assert not made.checkpoint_dir.exists()


def test_nothing_but_the_model_is_left_in_the_output(make_job):
    made = make_job(training={"epochs": 1, "debug": {"tensorBoard": True}})
    own = made.folder / "out" / ".finetune" / "uid-1"
    output = {"checkpointDir": str(own / "checkpoints"), "stagingDir": str(own / "model")}
    assert made.changed({"output": output}).run() == ExitCode.DONE
    assert [path.name for path in (made.folder / "out").iterdir()] == ["model"]


FOLDERS_IN_EACH_OTHER = {
    "checkpoints around the model": (
        {"checkpointDir": "out"},
        "checkpointDir: out holds output.modelDir, {}",
    ),
    "staging around the model": ({"stagingDir": "out/."}, "stagingDir: out/. holds output.modelDir, {}"),
    "downloads around the model": ({"hubDir": "out"}, "hubDir: out holds output.modelDir, {}"),
    "checkpoints in the model": (
        {"checkpointDir": "out/model/x"},
        "modelDir: {} holds output.checkpointDir, out/model/x",
    ),
    "staging in the checkpoints": (
        {"checkpointDir": "a/b", "stagingDir": "link/b/c"},
        "checkpointDir: a/b holds output.stagingDir, link/b/c",
    ),
    "one folder for two": (
        {"checkpointDir": "a", "stagingDir": "b/../a"},
        "stagingDir: b/../a is also output.checkpointDir, a",
    ),
}


@pytest.mark.parametrize("case", FOLDERS_IN_EACH_OTHER)
def test_a_folder_that_is_cleared_must_not_hold_another_one(make_job, monkeypatch, case):
    output, told = FOLDERS_IN_EACH_OTHER[case]
    made = make_job(training={"epochs": 1}, output=output)
    monkeypatch.chdir(made.folder)
    (made.folder / "link").symlink_to("a")
    assert made.run() == ExitCode.CONFIGURATION
    assert f"output.{told.format(made.model_dir)}; use separate folders" in made.report.message
    assert made.report.place.field == f"output.{told.partition(':')[0]}"
    assert not (made.folder / "out").exists()


def test_what_others_keep_in_the_folders_of_a_run_outlives_it(make_job):
    made = make_job(training={"epochs": 1})
    kept = [made.checkpoint_dir / "notes.txt", made.folder / "out" / "staging" / "attempt-of-mine-1" / "x"]
    for path in kept:
        path.parent.mkdir(parents=True)
        path.write_text("mine")
    assert made.run() == ExitCode.DONE
    assert [path.read_text() for path in kept] == ["mine", "mine"]
    assert list(made.checkpoint_dir.iterdir()) == kept[:1]
    assert len(list((made.folder / "out" / "staging").iterdir())) == 1


def test_a_published_model_that_was_damaged_is_not_reported_as_good(make_job):
    made = make_job()
    assert made.run() == ExitCode.DONE
    (made.model_dir / "config.json").write_text("{}")
    assert made.run() == ExitCode.STORAGE
    assert "config.json is damaged; restore the file, or remove the folder" in made.report.message


@pytest.mark.parametrize(
    ("changes", "owner"),
    [
        (
            {"job": {"uid": "uid-2", "name": "other"}},
            "job local/tiny, trained with the same configuration; use that model, or remove the folder to train",
        ),
        (
            {"job": {"uid": "uid-2", "name": "other"}, "training": {"seed": 5}},
            "job local/tiny; choose another output.uri",
        ),
        (
            {"training": {"seed": 5}},
            "an earlier run of this job with another configuration; choose another output.uri",
        ),
    ],
)
def test_the_model_of_another_run_is_never_replaced(make_job, changes, owner):
    made = make_job(training={"epochs": 1})
    assert made.run() == ExitCode.DONE
    before = (made.model_dir / "SHA256SUMS").read_bytes()
    other = made.changed(changes)
    assert other.run() == ExitCode.NOT_FOUND
    assert f"pvc://models/out holds the model of {owner}" in other.report.message
    assert (made.model_dir / "SHA256SUMS").read_bytes() == before


def test_early_stopping_ends_at_the_evaluation_computed_by_hand(make_job):
    made = make_job(
        training={
            "epochs": 12,
            "optimizer": {"learningRate": 1e-9},
            "earlyStopping": {"metric": "accuracy", "patience": 2},
            "evaluation": {"bestMetric": "accuracy"},
        }
    )
    assert made.run() == ExitCode.DONE
    report = made.report
    assert [e.epoch for e in report.epochs] == [1, 2, 3]
    assert report.early_stopped.step == 18
    assert report.early_stopped.metric == "accuracy"
    assert report.best.step == 6
    assert "in 2 evaluations" in report.early_stopped.reason
    seconds = sum(epoch.seconds for epoch in report.epochs)
    saved = report.early_stopped.saved_seconds
    assert saved == pytest.approx(seconds / 18 * (72 - 18), abs=1)
    assert "; stopped early at step 18 of 72, which saved about" in report.message
    assert f"This saved about {saved} seconds on the CPU." in (made.model_dir / "README.md").read_text()


def test_rows_left_out_are_counted_in_log_card_and_report(make_job, capsys):
    made = make_job(training={"epochs": 1}, dataset={"maxInvalidRows": "2"})
    data = made.folder / "train.jsonl"
    data.write_text('{"text": "broken"\n' + data.read_text() + '{"text": 7, "label": "pos"}\n')
    assert made.run() == ExitCode.DONE
    found = made.report.resolved
    assert (found.train.invalid_rows, found.train.rows + found.validation.rows) == (2, 64)
    assert "(dropped: 2 invalid, 0 duplicates)" in capsys.readouterr().out
    assert "dropped: 2 invalid, 0 duplicates; invalid: " in (made.model_dir / "README.md").read_text()


def worsening(make_job):
    """A run whose labels are drawn by lot: what it learns by heart makes it worse on the validation rows."""
    lot = random.Random(3)
    drawn = [row | {"label": lot.choice(["neg", "pos"])} for row in reviews(72)]
    made = make_job(
        rows=drawn[:48], training={"epochs": 12, "earlyStopping": {"patience": 3, "metric": "loss"}}
    )
    path = write_jsonl(made.folder / "validation.jsonl", drawn[48:])
    return made.changed({"dataset": {"split": None, "validation": {"path": str(path)}}}), drawn[48:]


def loss_of(folder, rows):
    """Of the folder's weights, as any user of transformers would compute it."""
    from torch.nn.functional import cross_entropy

    model, logits = predictions(folder, rows)
    return float(
        cross_entropy(logits, logits.new_tensor([model.config.label2id[r["label"]] for r in rows]).long())
    )


def test_the_best_weights_are_recorded_of_a_run_that_gets_worse(make_job):
    made, rows = worsening(make_job)
    assert made.run() == ExitCode.DONE
    report = made.report
    losses = [epoch.eval_loss for epoch in report.epochs]
    assert losses[-1] > min(losses) + 0.005
    assert report.early_stopped.step == report.epochs[-1].step > report.best.step
    assert report.model.metrics["eval_loss"] == min(losses)
    assert loss_of(made.model_dir, rows) == pytest.approx(min(losses), rel=1e-4)


def test_without_a_whole_checkpoint_of_the_best_weights_the_last_are_recorded_and_that_is_said(make_job):
    made, rows = worsening(make_job)

    def damage_each_checkpoint():
        real = os.rename

        def rename(source, target):
            real(source, target)
            if "step-" in str(target):
                (Path(target) / "model.safetensors").write_bytes(b"damaged")

        os.rename = rename

    assert made.run_apart(damage_each_checkpoint) == ExitCode.DONE
    report, last = made.report, made.report.epochs[-1]
    assert (
        f"the checkpoint of step {report.best.step}, the best one, is lost or damaged: the last" in made.log
    )
    assert report.model.metrics["eval_loss"] == last.eval_loss > report.best.value + 0.005
    assert loss_of(made.model_dir, rows) == pytest.approx(last.eval_loss, rel=1e-4)


def test_frozen_parts_keep_their_weights_and_the_rest_is_trained(make_job, model_folder):
    from safetensors.torch import load_file

    made = make_job(model={"freeze": {"embeddings": True, "layers": 1}}, training={"epochs": 1})
    assert made.run() == ExitCode.DONE
    before = load_file(model_folder / "model.safetensors")
    after = load_file(made.model_dir / "model.safetensors")
    same = {name for name, value in before.items() if after[f"bert.{name}"].equal(value)}
    assert same == {name for name in before if name.startswith(("embeddings.", "encoder.layer.0."))}


def test_embeddings_of_an_unusual_name_are_frozen_too():
    from transformers import GPTNeoXConfig, GPTNeoXForSequenceClassification

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = GPTNeoXForSequenceClassification(GPTNeoXConfig(vocab_size=32, **sizes))
    freeze(model, FreezeSpec(embeddings=True))
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == ["gpt_neox.embed_in.weight"]


def test_random_initialisation_takes_the_architecture_only(make_job, model_folder):
    made = make_job(model={"initialize": "Random"}, training={"maxSteps": 1, "epochs": None})
    assert made.run() == ExitCode.DONE
    from safetensors.torch import load_file

    before, after = (
        load_file(model_folder / "model.safetensors"),
        load_file(made.model_dir / "model.safetensors"),
    )
    name = "encoder.layer.0.output.dense.weight"
    assert not after[f"bert.{name}"].equal(before[name])
    assert "random weights with the architecture" in (made.model_dir / "README.md").read_text()


def test_simulated_gpus_train_on_the_cpu_and_everything_says_so(make_job, capsys):
    made = make_job(devices={"gpus": 1, "simulated": True}, training={"epochs": 1})
    assert made.run() == ExitCode.DONE
    assert made.report.effective.device == "cpu (simulated GPU)"
    assert "computing on cpu (simulated GPU)" in capsys.readouterr().out
    assert "were simulated" in (made.model_dir / "README.md").read_text()


def test_pairs_of_texts_and_number_labels_from_csv(make_job):
    made = make_job(training={"epochs": 1})
    path = made.folder / "pairs.csv"
    lines = [f'"{row["text"]}","the film",{int(row["label"] == "pos")}' for row in reviews(40)]
    path.write_text("a,b,label\n" + "\n".join(lines) + "\n")
    pairs = made.changed(
        {"dataset": {"train": {"path": str(path), "uri": None}, "columns": {"text": "a", "textPair": "b"}}}
    )
    assert pairs.run() == ExitCode.DONE
    assert pairs.report.effective.labels == ["0", "1"]


def test_every_line_of_the_log_is_json_with_a_message_for_people(make_job, capsys):
    assert make_job(training={"epochs": 1}).run() == ExitCode.DONE
    output = capsys.readouterr()
    lines = [json.loads(line) for line in output.out.splitlines()]
    assert all(line["message"] and line["time"].endswith("Z") for line in lines)
    assert any(line["message"].startswith("step 6 of 6 (100 %), epoch 1.00: loss") for line in lines)
    assert output.err.splitlines()[-1].startswith("finetune_trainer: done: trained 6 steps in")


def test_variables_for_trackers_are_said_to_have_no_effect(make_job):
    made = make_job(training={"maxSteps": 1, "epochs": None})
    given = {"WANDB_PROJECT": "films", "WANDB_API_KEY": "key"}
    assert made.run_apart(lambda: os.environ.update(given)) == ExitCode.DONE, made.log
    assert (
        "env: WANDB_API_KEY, WANDB_PROJECT have no effect, as the trainer sends metrics to no such"
        in made.log
    )
    assert not made.report.notes
