"""LoRA: what is trained, what is published, that plain peft and plain transformers read it, and exact resume."""

import json
import shutil

import pytest

from finetune_api.model import AdapterSpec, LoraSpec
from finetune_api.run import ExitCode, ModelInput
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.models.adapters import adapt, base_model, linear_layers
from unit.trainer.architectures import build
from unit.trainer.optimization.test_optimizer import kill_before_step, tiny_bert
from unit.trainer.tiny import reviews

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # by peft
SIZES = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}


def adapted(make_job, name="job", **changes):
    merge = changes.pop("merge", False)
    return make_job(
        name,
        model={"adapter": {"lora": {"rank": 4, "dropout": 0.1, "merge": merge}}},
        training={"epochs": 6, "optimizer": {"learningRate": 1e-2}, "checkpoint": {"every": {"steps": 5}}},
        **changes,
    )


def logits(model, tokenizer):
    """Of texts one by one, all in one row: not every base model has a padding token."""
    import torch

    inputs = [tokenizer(row["text"], return_tensors="pt") for row in reviews(30, start=700)]
    with torch.no_grad():
        found = [model.eval()(**one).logits for one in inputs]
    return torch.cat([one.flatten() for one in found])


def plain_peft(made, base, auto_class="AutoModelForSequenceClassification"):
    """As the card says."""
    import transformers
    from peft import PeftModel

    config = transformers.AutoConfig.from_pretrained(made.model_dir)
    kind = getattr(transformers, auto_class)
    model = kind.from_pretrained(base, config=config, ignore_mismatched_sizes=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(made.model_dir)
    return PeftModel.from_pretrained(model, made.model_dir), tokenizer


def plain_transformers(made, auto_class="AutoModelForSequenceClassification"):
    import transformers

    model = getattr(transformers, auto_class).from_pretrained(made.model_dir)
    return model, transformers.AutoTokenizer.from_pretrained(made.model_dir)


def without_update(model):
    """The same model with matrices that change nothing; the head stays the trained one."""
    for name, parameter in model.named_parameters():
        if ".lora_B" in name:
            parameter.data.zero_()
    return model


HEADS = {
    "classification": ("AutoModelForSequenceClassification", {}),
    "tokenClassification": (
        "AutoModelForTokenClassification",
        {"columns": {"text": "words", "label": "tags"}},
    ),
    "causalLM": ("AutoModelForCausalLM", {}),
}
BOTH_WAYS = [(name, "classification") for name in ("bert", "roberta", "albert", "gpt2", "llama")]
BOTH_WAYS += [("gpt2", "causalLM"), ("llama", "causalLM"), ("roberta", "tokenClassification")]


@pytest.mark.parametrize(("architecture", "objective"), BOTH_WAYS)
def test_an_adapter_and_its_merged_model_give_equal_logits_in_plain_peft_and_plain_transformers(
    make_job, tmp_path, architecture, objective
):
    (tmp_path / "base").mkdir()
    base, (auto_class, dataset) = build(architecture, tmp_path / "base"), HEADS[objective]
    parts = {"objective": {objective: {}}, "dataset": dataset}
    alone, whole = (
        adapted(make_job, name, merge=name == "whole", **parts).changed({"model": {"path": str(base)}})
        for name in ("alone", "whole")
    )
    assert (alone.run(), whole.run()) == (ExitCode.DONE, ExitCode.DONE)
    model, tokenizer = plain_peft(alone, base, auto_class)
    by_peft = logits(model, tokenizer)
    assert (by_peft - logits(*plain_transformers(whole, auto_class))).abs().max() < 1e-5
    assert (by_peft - logits(without_update(model), tokenizer)).abs().max() > 1e-2


def test_a_published_adapter_is_no_whole_model_and_says_how_it_is_loaded(make_job):
    alone, whole = adapted(make_job, "alone"), adapted(make_job, "whole", merge=True)
    assert (alone.run(), whole.run()) == (ExitCode.DONE, ExitCode.DONE)
    names = {path.name for path in alone.model_dir.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "run.json"} <= names
    assert "model.safetensors" not in names
    assert (alone.report.model.format, whole.report.model.format) == ("peft", "safetensors")
    told = json.loads((alone.model_dir / "adapter_config.json").read_text())
    assert told["base_model_name_or_path"] == "pvc://models/tiny"
    card = (alone.model_dir / "README.md").read_text()
    assert 'base = "pvc://models/tiny"' in card
    assert "PeftModel.from_pretrained(model, folder)" in card


def test_an_adapter_on_a_base_with_a_head_of_other_labels_loads_as_its_card_says(
    make_job, model_folder, tmp_path, monkeypatch, capsys
):
    import transformers

    base = tmp_path / "three labels"
    shutil.copytree(model_folder, base)
    config = transformers.AutoConfig.from_pretrained(base, num_labels=3)
    transformers.BertForSequenceClassification(config).save_pretrained(base)
    made = adapted(make_job).changed({"model": {"path": str(base), "uri": str(base)}})
    assert made.run() == ExitCode.DONE
    card = (made.model_dir / "README.md").read_text()
    monkeypatch.chdir(made.model_dir)
    capsys.readouterr()
    exec(compile(card.split("```python\n")[1].split("```")[0], "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() in ("['neg']", "['pos']")


def test_a_pooler_that_the_checkpoint_lacks_is_trained_and_recorded_with_the_adapter(
    make_job, model_folder, tmp_path
):
    """ALBERT and BERT pretrained on masked tokens alone have none: everyone who loads them draws another."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    base = tmp_path / "masked"
    shutil.copytree(model_folder, base)
    weights = load_file(base / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "pooler" not in name}
    assert len(kept) < len(weights)
    save_file(kept, base / "model.safetensors", {"format": "pt"})
    paths = {"model": {"path": str(base)}}
    alone, whole = (
        adapted(make_job, name, merge=merge).changed(paths)
        for name, merge in (("alone", False), ("whole", True))
    )
    assert (alone.run(), whole.run()) == (ExitCode.DONE, ExitCode.DONE)
    with safe_open(alone.model_dir / "adapter_model.safetensors", "pt") as adapter:
        pooler = [name for name in adapter.keys() if "pooler" in name]  # noqa: SIM118 - not a dict
    assert sorted(name.rpartition(".")[2] for name in pooler) == ["bias", "weight"]

    by_peft = logits(*plain_peft(alone, base))
    assert by_peft.std() > 1e-3
    assert (by_peft - logits(*plain_transformers(whole))).abs().max() < 1e-5


def test_a_published_adapter_scores_as_the_report_says(make_job, model_folder):
    from unit.trainer.training.test_run import with_test_rows

    made = with_test_rows(make_job, model={"adapter": {"lora": {}}}, training={"epochs": 4})
    assert made.run() == ExitCode.DONE
    model, tokenizer = plain_peft(made, model_folder)
    rows = reviews(40, start=500)
    inputs = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    found = model.eval()(**inputs).logits.argmax(-1).tolist()
    hits = [model.config.id2label[i] == row["label"] for i, row in zip(found, rows, strict=True)]
    assert made.report.model.metrics["test_accuracy"] == pytest.approx(sum(hits) / len(hits))


def test_a_killed_run_with_an_adapter_goes_on_to_the_same_bytes_and_saves_what_is_trained_only(make_job):
    from safetensors import safe_open

    undisturbed, killed = adapted(make_job, "undisturbed"), adapted(make_job, "killed")
    assert undisturbed.run_apart() == ExitCode.DONE
    assert killed.run_apart(lambda: kill_before_step(8)) == -9
    with safe_open(killed.checkpoint_dir / "step-00000005" / "model.safetensors", "pt") as checkpoint:
        names = set(checkpoint.keys())
    assert {name for name in names if "lora_" not in name and "modules_to_save" not in name} == set()
    assert any("classifier.modules_to_save" in name for name in names)
    assert killed.run_apart() == ExitCode.DONE
    assert "resuming from the checkpoint of step 5" in killed.log
    one, other = ((job.model_dir / "adapter_model.safetensors").read_bytes() for job in (undisturbed, killed))
    assert one == other


@pytest.mark.parametrize(
    ("name", "auto_class"),
    [(n, "AutoModelForSequenceClassification") for n in ("Bert", "Roberta", "Albert", "GPT2", "Llama")]
    + [("GPT2", "AutoModelForCausalLM"), ("Bert", "AutoModelForTokenClassification")],
)
def test_every_linear_layer_of_the_encoder_is_found_in_every_architecture(name, auto_class):
    import transformers

    config = getattr(transformers, f"{name}Config")(vocab_size=16, pad_token_id=0, **SIZES)
    model = getattr(transformers, auto_class).from_config(config)
    wanted = set(linear_layers(model))
    made = adapt(model, ModelInput(path="x", adapter=AdapterSpec(lora=LoraSpec())), auto_class, {})
    matrices = {n.split(".lora_A")[0] for n, _ in made.named_parameters() if ".lora_A" in n}
    assert len(matrices) == len(wanted) > 0
    trained = {n for n, p in made.named_parameters() if p.requires_grad and "lora_" not in n}
    heads = {n for n in trained if "modules_to_save" in n}
    assert trained == heads
    assert bool(heads) is (auto_class != "AutoModelForCausalLM")


def test_target_modules_are_taken_by_name_and_a_name_that_no_layer_has_is_refused():
    spec = ModelInput.model_validate(
        {"path": "x", "adapter": {"lora": {"targetModules": ["query", "value"]}}}
    )
    model = adapt(tiny_bert(2), spec, "AutoModelForSequenceClassification", {})
    assert sum(".lora_A" in name for name, _ in model.named_parameters()) == 4
    wrong = ModelInput.model_validate({"path": "x", "adapter": {"lora": {"targetModules": ["q_proj"]}}})
    with pytest.raises(ConfigurationError, match="no linear layer 'q_proj'; it has dense, key, query, value"):
        adapt(tiny_bert(2), wrong, "AutoModelForSequenceClassification", {})


def test_the_base_model_is_told_as_people_load_it():
    assert base_model("hf://distilbert/distilbert-base-uncased@main") == (
        "distilbert/distilbert-base-uncased",
        "main",
    )
    assert base_model("pvc://models/tiny") == ("pvc://models/tiny", None)


@pytest.mark.parametrize(
    ("model", "field"),
    [
        ({"head": {}}, "model.head"),
        ({"addTokens": ["mmhg"]}, "model.tokenizer.addTokens"),
        ({"initialize": "Random"}, "model.initialize: Random"),
    ],
)
def test_what_an_adapter_alone_cannot_hold_is_refused_with_the_remedy(make_job, model, field):
    made = adapted(make_job).changed({"model": model})
    assert made.run() == ExitCode.CONFIGURATION
    assert made.report.message.startswith(f"{field} changes the base model")
    assert "merge: true" in made.report.message
