"""Which head a run starts with, and that it says so: the base model's, matched by label, or a new one."""

import json

import pytest

from finetune_api.model import HeadSpec
from finetune_api.run import ExitCode, ModelInput
from finetune_trainer.models.base_head import BaseHead, choose_head
from finetune_trainer.models.folder import ModelFolder
from finetune_trainer.models.load import load_model
from finetune_trainer.objectives.causal_lm import CausalLM
from finetune_trainer.objectives.classification import Classification
from finetune_trainer.objectives.regression import Regression
from finetune_trainer.objectives.token_classification import TokenClassification
from unit.trainer.tiny import reviews

SEQUENCE, TOKENS = "BertForSequenceClassification", "BertForTokenClassification"
SINGLE, SEVERAL = "single_label_classification", "multi_label_classification"


def choice(names, objective, *, problem=SINGLE, built=SEQUENCE, wrote=SEQUENCE, custom=None, head=None):
    """For a base model with trained weights of a head."""
    base = BaseHead(names, problem, wrote, custom)
    return choose_head(base, objective, built, head, lacking=False)


@pytest.mark.parametrize(
    ("names", "labels", "order"),
    [
        (["neg", "pos"], ["neg", "pos"], [0, 1]),
        (["neg", "pos"], ["pos", "neg"], [1, 0]),
        (["a", "b", "c"], ["c", "a", "b"], [2, 0, 1]),
        (["LABEL_0", "LABEL_1"], ["0", "1"], [0, 1]),
        (["LABEL_0", "LABEL_1"], ["1", "0"], [1, 0]),
        (["LABEL_1", "LABEL_0"], ["0", "1"], [1, 0]),
        (["0", "1"], ["LABEL_0", "LABEL_1"], [0, 1]),
        (["LABEL_0", "LABEL_1"], ["LABEL_1", "LABEL_0"], [1, 0]),
        (["LABEL_0", "LABEL_1"], ["1", "2"], None),
        (["LABEL_0", "LABEL_1"], ["neg", "pos"], None),
        (["neg", "pos"], ["Neg", "Pos"], None),
        (["neg", "pos"], ["neg", "pos", "mixed"], None),
        (["neg", "neg"], ["neg", "pos"], None),
        (["1", "2"], ["2", "1"], [1, 0]),
    ],
)
def test_the_rows_of_a_head_follow_the_names_of_the_labels(names, labels, order):
    made = choice(names, Classification(labels))
    assert made.order == order
    assert made.replaced is (order is None)


@pytest.mark.parametrize(
    ("names", "objective", "others", "sentence"),
    [
        (
            ["a", "b"],
            Classification(["a", "b"], multi_label=True),
            {},
            "for single label classification, and",
        ),
        (["a", "b"], Classification(["a", "b"]), {"problem": SEVERAL}, "for multi label classification, and"),
        (["a", "b"], Classification(["a", "b"], multi_label=True), {"problem": None}, "for single label"),
        (["a", "b"], Regression(targets=2), {}, "and this job is for regression"),
        (["value"], Regression(targets=2), {"problem": "regression"}, "has 1 outputs, and this job needs 2"),
        (
            ["a", "b"],
            TokenClassification(["a", "b"]),
            {"built": TOKENS},
            f"is a {SEQUENCE}, and this job trains a",
        ),
        (["a", "b"], Classification(["a", "b"]), {"wrote": TOKENS}, f"is a {TOKENS}, and this job trains a"),
        (["a", "b"], Classification(["a", "b"]), {"custom": {}}, "continued only with the same model.head"),
    ],
)
def test_a_head_of_another_task_is_replaced_with_a_sentence(names, objective, others, sentence):
    made = choice(names, objective, **others)
    assert made.order is None
    assert made.replaced
    assert sentence in made.sentence


@pytest.mark.parametrize(
    ("names", "objective", "others"),
    [
        (["a", "b"], Classification(["a", "b"]), {"problem": None}),
        (["a", "b"], Classification(["a", "b"]), {"wrote": None}),
        (["a", "b"], Classification(["a", "b"], multi_label=True), {"problem": SEVERAL}),
        (["O", "B"], TokenClassification(["O", "B"]), {"built": TOKENS, "wrote": TOKENS, "problem": None}),
        (["value"], Regression(), {"problem": "regression"}),
        (["LABEL_0"], Regression(), {"problem": None}),
        (["LABEL_0", "LABEL_1"], Regression(targets=2), {"problem": "regression"}),
    ],
)
def test_a_head_of_the_same_task_is_continued(names, objective, others):
    assert choice(names, objective, **others).order == list(range(len(names)))


@pytest.mark.parametrize(
    ("asked", "order"),
    [
        ({"hidden_sizes": [8]}, [0, 1]),
        ({"hidden_sizes": [8], "dropout": 0.5}, [0, 1]),
        ({"hidden_sizes": [16]}, None),
        ({"hidden_sizes": [8], "batch_norm": True}, None),
        ({"hidden_sizes": [8], "pooling": "First"}, None),
        ({}, None),
    ],
)
def test_a_custom_head_is_continued_where_model_head_is_the_same_but_for_its_dropout(asked, order):
    custom = {"hidden_sizes": [8], "batch_norm": False, "dropout": 0.1, "pooling": "Mean", "outputs": 2}
    head = HeadSpec.model_validate(asked)
    made = choice(["a", "b"], Classification(["a", "b"]), custom=custom, head=head, wrote="BertModel")
    assert made.order == order
    assert made.replaced is (order is None)


SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
ARCHITECTURES = {
    "Bert": SIZES,
    "Roberta": SIZES,
    "Electra": SIZES,
    "Albert": SIZES,
    "DebertaV2": SIZES,
    "DistilBert": {"dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 8},
    "GPT2": {"n_embd": 8, "n_layer": 1, "n_head": 2, "bos_token_id": 1},
}


def logits_of(model):
    import torch

    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([[5, 6, 7, 2]])).logits[0]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_on_every_architecture_rows_move_with_their_labels_and_a_new_head_leaves_the_body(tmp_path, name):
    import torch
    import transformers

    config = getattr(transformers, f"{name}Config")(
        vocab_size=32,
        pad_token_id=0,
        eos_token_id=2,
        id2label={0: "a", 1: "b", 2: "c"},
        **ARCHITECTURES[name],
    )
    torch.manual_seed(1)
    base = getattr(transformers, f"{name}ForSequenceClassification")(config)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    base.save_pretrained(tmp_path)
    before = logits_of(base)

    def loaded(labels):
        spec = ModelInput(path=str(tmp_path))
        return load_model(
            ModelFolder(tmp_path, tmp_path, name, None, ""), spec, Classification(labels), 0
        ).model

    assert torch.allclose(logits_of(loaded(["a", "b", "c"])), before, atol=1e-6)
    assert torch.allclose(logits_of(loaded(["c", "a", "b"])), before[[2, 0, 1]], atol=1e-6)
    other = loaded(["x", "y", "z"])
    body = dict(other.base_model.named_parameters())
    assert all(torch.equal(body[key], value) for key, value in base.base_model.named_parameters())
    assert not torch.allclose(logits_of(other), before, atol=1e-3)
    assert any("head" in key or "classifier" in key or "score" in key for key in other.state_dict())


def test_the_head_of_a_language_model_is_left_alone(tmp_path):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    base = LlamaForCausalLM(LlamaConfig(vocab_size=32, tie_word_embeddings=False, **SIZES))
    base.save_pretrained(tmp_path)
    loaded = load_model(
        ModelFolder(tmp_path, tmp_path, "llama", None, ""), ModelInput(path=str(tmp_path)), CausalLM(), 0
    )
    assert torch.equal(loaded.model.lm_head.weight, base.lm_head.weight)
    assert not loaded.head.replaced
    assert "continued" in loaded.head.sentence


def test_a_normalised_regression_continues_a_head_that_predicts_original_units(tmp_path):
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(vocab_size=32, problem_type="regression", id2label={0: "value"}, **SIZES)
    base = BertForSequenceClassification(config)
    with torch.no_grad():
        base.classifier.bias.fill_(1990.0)
    base.save_pretrained(tmp_path)
    task = Regression(standard=((2000.0,), (5.0,)))
    spec = ModelInput(path=str(tmp_path))
    model = load_model(ModelFolder(tmp_path, tmp_path, "bert", None, ""), spec, task, 0).model
    learned = logits_of(model)
    assert learned.tolist() == pytest.approx([(float(logits_of(base)) - 2000) / 5], abs=1e-3)
    task.finish(model)
    assert logits_of(model).tolist() == pytest.approx(logits_of(base).tolist(), rel=1e-5)


CLASSES = {"objective": {"classification": {"labels": ["pos", "neg"]}}}


@pytest.fixture(scope="module")
def first_model(tmp_path_factory, model_folder):
    """A trained classifier of neg and pos."""
    from unit.trainer.tiny import job

    made = job(tmp_path_factory.mktemp("first"), model_folder, reviews(200), training={"epochs": 4})
    assert made.run_apart() == ExitCode.DONE
    assert made.report.model.metrics["eval_accuracy"] > 0.9
    return made.model_dir


def second(make_job, base, **changes):
    """A job that hardly trains on the base: its evaluation is that of its start."""
    few = {"epochs": None, "maxSteps": 1, "optimizer": {"learningRate": 1e-6}}
    made = make_job(rows=reviews(200), training=few, **changes).changed({"model": {"path": str(base)}})
    assert made.run() == ExitCode.DONE
    return made


@pytest.mark.parametrize("adapter", [None, {"lora": {}}], ids=["whole", "adapter"])
def test_a_job_with_the_labels_in_another_order_begins_as_good_as_the_first_ended(
    make_job, first_model, adapter
):
    made = second(make_job, first_model, model={"adapter": adapter}, **CLASSES)
    assert made.report.model.metrics["eval_accuracy"] > 0.9
    sentence = "its rows are reordered by label from neg, pos to pos, neg"
    assert sentence in made.report.effective.head
    assert sentence in (made.model_dir / "README.md").read_text()
    assert sentence not in made.report.message


def test_a_job_with_other_labels_gets_a_new_head_and_its_last_words_say_so(make_job, first_model):
    renamed = [row | {"label": {"pos": "a-good", "neg": "z-bad"}[row["label"]]} for row in reviews(200)]
    few = {"epochs": None, "maxSteps": 1}
    made = make_job(rows=renamed, training=few).changed({"model": {"path": str(first_model)}})
    assert made.run() == ExitCode.DONE
    assert made.report.model.metrics["eval_loss"] < 1
    sentence = "new head: the outputs of the base model are neg, pos, and this job's are a-good, z-bad"
    assert sentence in made.report.message
    assert sentence in made.report.effective.head


def test_a_custom_head_is_continued_with_its_rows_in_the_order_of_the_labels(make_job, tmp_path):
    head = {"head": {"hiddenSizes": [16]}}
    first = make_job("first", rows=reviews(200), model=head, training={"epochs": 6})
    assert first.run() == ExitCode.DONE
    assert first.report.model.metrics["eval_accuracy"] > 0.9
    again = second(make_job, first.model_dir, model=head, **CLASSES)
    assert again.report.model.metrics["eval_accuracy"] > 0.9
    assert "reordered by label" in again.report.effective.head


def test_a_damaged_custom_head_is_refused_with_its_file(make_job, tmp_path, model_folder):
    import shutil

    base = shutil.copytree(model_folder, tmp_path / "base")
    description = {"hidden_sizes": [], "batch_norm": False, "pooling": "Mean", "outputs": 2, "dropout": 0.0}
    (base / "custom_head.json").write_text(json.dumps(description))
    config = json.loads((base / "config.json").read_text())
    labels = {"problem_type": SINGLE, "id2label": {"0": "neg", "1": "pos"}, "label2id": {"neg": 0, "pos": 1}}
    (base / "config.json").write_text(json.dumps(config | labels))
    made = make_job(model={"head": {}}).changed({"model": {"path": str(base)}})
    assert made.run() == ExitCode.NOT_FOUND
    assert "custom_head.safetensors cannot be read" in made.report.message


def test_weights_that_are_not_finite_are_refused_before_training(make_job, tmp_path, model_folder):
    import shutil

    from safetensors.torch import load_file, save_file

    base = shutil.copytree(model_folder, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    tensors["embeddings.word_embeddings.weight"][9] = float("nan")
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    made = make_job().changed({"model": {"path": str(base)}})
    assert made.run() == ExitCode.NOT_FOUND
    assert "32 of the" in made.report.message
    assert "word_embeddings.weight in pvc://models/tiny are NaN or infinite" in made.report.message


def test_an_adapter_is_no_base_model_and_the_message_has_both_remedies(make_job, tmp_path, model_folder):
    import shutil

    base = shutil.copytree(model_folder, tmp_path / "base")
    (base / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    made = make_job().changed({"model": {"path": str(base)}})
    assert made.run() == ExitCode.NOT_FOUND
    assert "holds an adapter of org/base, not a whole model" in made.report.message
    assert "merge: true" in made.report.message
    assert "set model.uri to org/base" in made.report.message
    assert made.report.place.field == "model.uri"
