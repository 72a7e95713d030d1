"""Every objective on every architecture: it learns, and transformers alone predicts the same from the folder."""

import ast
import json
import math
from pathlib import Path

import pytest

from finetune_api.run import ExitCode, ModelInput
from finetune_trainer.data.encoding import first_tokens
from finetune_trainer.models.folder import check_folder
from finetune_trainer.models.load import load_model
from finetune_trainer.models.tokenizer import load_tokenizer
from finetune_trainer.objectives.classification import Classification
from finetune_trainer.objectives.token_classification import TokenClassification
from unit.trainer.architectures import build
from unit.trainer.tiny import job, reviews, write_jsonl

ROWS = reviews(12)
SEQUENCE = {
    "classification": ({"classification": {}}, {"label": "label"}, "single_label_classification"),
    "several labels": (
        {"classification": {"multiLabel": True}},
        {"label": "topics"},
        "multi_label_classification",
    ),
    "regression": ({"regression": {}}, {"label": "rating"}, "regression"),
}
NORMALIZED = {"regression": {"targets": 2, "normalize": True, "loss": "Huber"}}
ARCHITECTURES = ["bert", "roberta", "gpt2", "llama"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, model_folder):
    """A checkpoint of each kind."""
    return {name: build(name, tmp_path_factory.mktemp(name)) for name in ARCHITECTURES}


@pytest.fixture
def use_card(monkeypatch, capsys):
    """Runs the lines of the model's card in its folder; returns what they print."""

    def use(folder):
        capsys.readouterr()
        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend(folder)
        card = Path("README.md").read_text()
        exec(compile(card.split("```python\n")[1].split("```")[0], "README.md", "exec"), {})
        return capsys.readouterr().out.strip()

    return use


@pytest.fixture
def train(tmp_path, folders):
    """Learns twelve rows by heart."""

    def run(architecture, objective, columns):
        made = job(tmp_path / "job", folders[architecture], ROWS, objective=objective)
        rows = {"path": str(write_jsonl(tmp_path / "rows.jsonl", ROWS))}
        training = {
            "epochs": None,
            "maxSteps": 32,
            "batchSize": 12,
            "microBatchSize": 6,
            "optimizer": {"learningRate": 1e-2},
            "evaluation": {"every": {"steps": 32}},
        }
        made = made.changed(
            {
                "dataset": {
                    "columns": columns,
                    "split": None,
                    "train": rows,
                    "validation": rows,
                    "test": rows,
                },
                "training": training,
                "model": {"dropout": 0.0},
            }
        )
        assert made.run() == ExitCode.DONE
        return made

    return run


def loaded(folder, auto_class):
    """Model and tokenizer as any user of transformers gets them."""
    import transformers

    model = getattr(transformers, auto_class).from_pretrained(folder).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


def assert_learned(made):
    first = json.loads((made.model_dir / "metrics.jsonl").read_text().splitlines()[0])
    assert (first["event"], first["step"]) == ("train", 1)
    assert made.report.model.metrics["test_loss"] < 0.6 * first["loss"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("objective", SEQUENCE)
def test_texts(train, use_card, architecture, objective):
    """Padded batches of the trainer against texts one by one."""
    import torch

    spec, columns, problem_type = SEQUENCE[objective]
    made = train(architecture, spec, columns)
    assert_learned(made)
    model, tokenizer = loaded(made.model_dir, "AutoModelForSequenceClassification")
    assert model.config.problem_type == problem_type
    total = 0.0
    for row in ROWS:
        target = row[columns["label"]]
        if objective == "several labels":
            target = [[float(name in target) for name in model.config.id2label.values()]]
        elif objective == "classification":
            target = [model.config.label2id[target]]
        inputs = tokenizer(row["text"], truncation=True, max_length=32, return_tensors="pt")
        with torch.no_grad():
            total += model(**inputs, labels=torch.tensor(target)).loss.item()
    assert made.report.model.metrics["test_loss"] == pytest.approx(total / len(ROWS), rel=2e-5, abs=1e-6)
    printed = ast.literal_eval(use_card(made.model_dir))
    assert isinstance(
        printed[0], {"classification": str, "several labels": list, "regression": float}[objective]
    )


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_normalised_targets_are_predicted_in_their_own_units(train, use_card, architecture):
    import torch

    made = train(architecture, NORMALIZED, {"label": "counts"})
    assert_learned(made)
    model, tokenizer = loaded(made.model_dir, "AutoModelForSequenceClassification")
    assert model.config.id2label == {0: "value_0", 1: "value_1"}
    inputs = tokenizer([row["text"] for row in ROWS], padding=True, return_tensors="pt")
    with torch.no_grad():
        errors = model(**inputs).logits - torch.tensor([row["counts"] for row in ROWS])
    rmse = errors.square().mean(dim=0).sqrt().mean().item()
    assert made.report.model.metrics["test_rmse"] == pytest.approx(rmse, rel=1e-4)
    assert rmse < 2  # the second number is above 100
    ((first, second),) = ast.literal_eval(use_card(made.model_dir))
    assert first < 20 < 90 < second


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_normalised_targets_need_a_last_layer_with_a_bias(tmp_path, folders, architecture):
    made = job(tmp_path, folders[architecture], ROWS, objective=NORMALIZED).changed(
        {"dataset": {"columns": {"label": "counts"}}}
    )
    assert made.run() == ExitCode.CONFIGURATION
    assert "has no bias to hold the targets' mean" in made.report.message


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # by peft
def test_a_head_of_ones_own_and_an_adapter_take_up_the_mean_too(tmp_path, folders, use_card):
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    columns = {"dataset": {"columns": {"label": "counts"}, "split": None}}
    columns["dataset"]["validation"] = {"path": str(write_jsonl(tmp_path / "rows.jsonl", ROWS))}
    headed = job(tmp_path / "a", folders["llama"], ROWS, objective=NORMALIZED, model={"head": {}}, **columns)
    assert headed.run() == ExitCode.DONE
    ((_, second),) = ast.literal_eval(use_card(headed.model_dir))
    assert 90 < second < 130

    lora = {"adapter": {"lora": {}}}
    adapted = job(tmp_path / "b", folders["bert"], ROWS, objective=NORMALIZED, model=lora, **columns)
    assert adapted.run() == ExitCode.DONE
    config = AutoConfig.from_pretrained(adapted.model_dir)
    base = AutoModelForSequenceClassification.from_pretrained(folders["bert"], config=config)
    model = PeftModel.from_pretrained(base, adapted.model_dir).eval()
    tokenizer = AutoTokenizer.from_pretrained(adapted.model_dir)
    inputs = tokenizer([row["text"] for row in ROWS], padding=True, return_tensors="pt")
    with torch.no_grad():
        errors = model(**inputs).logits - torch.tensor([row["counts"] for row in ROWS])
    rmse = errors.square().mean(dim=0).sqrt().mean().item()
    assert adapted.report.model.metrics["eval_rmse"] == pytest.approx(rmse, rel=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_words(train, use_card, architecture):
    import torch

    made = train(architecture, {"tokenClassification": {}}, {"text": "words", "label": "tags"})
    assert_learned(made)
    assert made.report.effective.labels == ["BAD", "GOOD", "O"]
    model, tokenizer = loaded(made.model_dir, "AutoModelForTokenClassification")
    total, words = 0.0, 0
    for row in ROWS:
        inputs = tokenizer(row["text"], return_offsets_mapping=True, return_tensors="pt")
        first = first_tokens(row["words"], inputs.pop("offset_mapping")[0].numpy())
        ids = [model.config.label2id[row["tags"][word]] if word >= 0 else -100 for word in first]
        with torch.no_grad():
            total += model(**inputs, labels=torch.tensor([ids])).loss.item() * len(row["words"])
        words += len(row["words"])
    assert made.report.model.metrics["test_loss"] == pytest.approx(total / words, rel=2e-5, abs=1e-6)
    found = ast.literal_eval(use_card(made.model_dir))
    assert [word for word, _ in found] == ["the", "words", "of", "a", "text"]
    assert {label for _, label in found} <= {"BAD", "GOOD", "O"}


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_next_tokens(train, use_card, architecture):
    import torch

    made = train(architecture, {"causalLM": {}}, {"prompt": "prompt"})
    assert_learned(made)
    model, tokenizer = loaded(made.model_dir, "AutoModelForCausalLM")
    total, tokens = 0.0, 0
    for row in ROWS:
        ids = tokenizer(row["prompt"] + row["text"], return_tensors="pt").input_ids
        ids = torch.cat([ids, torch.tensor([[tokenizer.eos_token_id]])], dim=1)
        labels = ids.clone()
        labels[:, : len(tokenizer(row["prompt"].rstrip()).input_ids)] = -100
        with torch.no_grad():
            total += model(input_ids=ids, labels=labels).loss.item() * int((labels != -100).sum())
        tokens += int((labels != -100).sum())
    metrics = made.report.model.metrics
    assert metrics["test_loss"] == pytest.approx(total / tokens, rel=2e-5)
    assert metrics["test_perplexity"] == pytest.approx(math.exp(total / tokens), rel=1e-4)
    assert use_card(made.model_dir).startswith("the beginning of a text")


def test_a_document_may_be_empty_where_the_tokenizer_adds_nothing_before_it(tmp_path, folders):
    rows = [row | {"text": ""} if number % 2 else row for number, row in enumerate(ROWS)]
    allowed = {"preprocessing": {"minCharacters": 0}}
    made = job(tmp_path, folders["gpt2"], rows, objective={"causalLM": {}}, dataset=allowed)
    assert made.changed({"training": {"epochs": 1}}).run() == ExitCode.DONE
    assert made.report.resolved.train.invalid_rows == 0
    assert made.report.model.metrics["eval_loss"] > 0


def test_a_row_without_a_token_is_named(tmp_path, folders):
    rows = [row | {"text": ""} if number == 6 else row for number, row in enumerate(ROWS)]
    allowed = {"preprocessing": {"minCharacters": 0}}
    made = job(tmp_path, folders["gpt2"], rows, dataset=allowed)
    assert made.run() == ExitCode.DATA
    assert "pvc://data/train.jsonl, row 7 has no token" in made.report.message
    assert (made.report.place.field, made.report.place.row) == ("dataset.train", 7)


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_models_that_see_what_follows_cannot_learn_next_tokens(tmp_path, folders, architecture):
    made = job(tmp_path, folders[architecture], ROWS, objective={"causalLM": {}})
    assert made.run() == ExitCode.CONFIGURATION
    assert "is bidirectional" in made.report.message


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    "objective", [Classification(["a", "b"]), TokenClassification(["a", "b"])], ids=["texts", "words"]
)
def test_logits_do_not_depend_on_padding(folders, architecture, objective):
    import torch

    spec = ModelInput(path=str(folders[architecture]))
    tokenizer = load_tokenizer(check_folder(spec), "right")
    torch.manual_seed(1)
    model = load_model(check_folder(spec), spec, objective, tokenizer.pad_token_id).model.eval()
    ids = [tokenizer(row["text"]).input_ids for row in ROWS]
    ids[0] = [*ids[0], tokenizer.eos_token_id or 0]  # the padding token of GPT-2 and Llama
    longest = max(map(len, ids)) + 3
    padded = torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
    with torch.no_grad():
        together = model(input_ids=padded, attention_mask=mask).logits
        for row, logits in zip(ids, together, strict=True):
            alone = model(input_ids=torch.tensor([row])).logits[0]
            assert (logits[: len(row)] if objective.per_token else logits) == pytest.approx(alone, abs=1e-5)
