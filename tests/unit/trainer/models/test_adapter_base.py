"""An adapter as the base model: merged into its own base, or refused with what was looked for and where."""

import json
import shutil
from functools import partial

import pytest

from finetune_api.run import ExitCode, ModelInput, RunConfig
from finetune_trainer.errors import NotFoundError
from finetune_trainer.hub import client
from finetune_trainer.models.adapter_folder import check_model, read_adapter
from finetune_trainer.models.load import load_model
from finetune_trainer.objectives.causal_lm import CausalLM
from finetune_trainer.objectives.classification import Classification
from finetune_trainer.process.stop import Stop
from finetune_trainer.training.base_model import claim_roots, find_base
from hub_server import serving
from unit.trainer.architectures import build

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # by peft
TASKS = {
    "classification": ("bert", {"objective": {"classification": {}}}),
    "several labels": (
        "roberta",
        {
            "objective": {"classification": {"multiLabel": True}},
            "dataset": {"columns": {"label": "topics"}},
        },
    ),
    "regression": (
        "albert",
        {
            "objective": {"regression": {"normalize": True}},
            "dataset": {"columns": {"label": "rating"}},
        },
    ),
    "words": (
        "bert",
        {
            "objective": {"tokenClassification": {}},
            "dataset": {"columns": {"text": "words", "label": "tags"}},
        },
    ),
    "next tokens": ("llama", {"objective": {"causalLM": {}}}),
    "next tokens, tied": ("gpt2", {"objective": {"causalLM": {}}}),
}


@pytest.fixture
def claim(tmp_path):
    """A folder in the place of the claim `models`, with a base model on it."""
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def on_claim(made, claim, base, output):
    """The job with its model and its output on the claim, as the operator mounts it."""
    model = {"path": str(claim / base), "uri": f"pvc://models/{base}"}
    return made.changed(
        {"model": model, "output": {"modelDir": str(claim / output), "uri": f"pvc://models/{output}"}}
    )


def first_job(make_job, claim, kind="classification", architecture=None, lora=None, **changes):
    """A job whose adapter is published alone."""
    default, options = TASKS[kind]
    build(architecture or default, (claim / "base"))
    made = make_job(
        "first",
        model={"adapter": {"lora": lora or {}}},
        training={"epochs": 4, "optimizer": {"learningRate": 1e-2}},
        **(options | changes),
    )
    made = on_claim(made, claim, "base", "first")
    assert made.run() == ExitCode.DONE, made.report.message
    assert made.report.model.format == "peft"
    return made


def second_job(make_job, claim, kind="classification", base="first", **changes):
    """A job whose only step changes nothing: its evaluation is that of its start."""
    still = {
        "epochs": None,
        "maxSteps": 1,
        "optimizer": {"name": "SGD", "learningRate": 1e-12, "momentum": 0},
    }
    return on_claim(make_job("second", training=still, **(TASKS[kind][1] | changes)), claim, base, "second")


@pytest.mark.parametrize("kind", TASKS)
def test_a_job_on_an_adapter_begins_where_the_adapter_ended(make_job, claim, kind, caplog):
    caplog.set_level("INFO")
    first = first_job(make_job, claim, kind)
    second = second_job(make_job, claim, kind)
    assert second.run() == ExitCode.DONE, second.report.message
    ended, begun = first.report.model.metrics, second.report.model.metrics
    assert begun["eval_loss"] == pytest.approx(ended["eval_loss"], abs=1e-5)
    assert "adapter pvc://models/first merged into base pvc://models/base" in caplog.text
    if kind not in ("next tokens", "next tokens, tied"):
        assert "the head of the base model is continued" in second.report.effective.head
    assert second.report.model.format == "safetensors"
    assert second.report.model.base_model == "pvc://models/base"
    assert second.report.resolved.model.uri == "pvc://models/first"
    assert second.report.resolved.model.merged_into == "pvc://models/base"
    card = (claim / "second" / "README.md").read_text()
    assert "from the adapter `pvc://models/first` merged into the base `pvc://models/base`" in card
    assert "base_model: pvc://models/base" in card


def test_its_adapter_does_make_a_difference(make_job, claim):
    """Without it the evaluation of the same job is another one."""
    first = first_job(make_job, claim, "next tokens")
    plain = second_job(make_job, claim, "next tokens", base="base")
    assert plain.run() == ExitCode.DONE
    assert abs(plain.report.model.metrics["eval_loss"] - first.report.model.metrics["eval_loss"]) > 1e-2


@pytest.mark.parametrize("lora", [{"merge": True}, {"merge": False}])
def test_a_second_adapter_is_published_merged_or_refused(make_job, claim, lora):
    first = first_job(make_job, claim)
    second = second_job(make_job, claim, model={"adapter": {"lora": lora}})
    if lora["merge"]:
        assert second.run() == ExitCode.DONE
        ended, begun = first.report.model.metrics, second.report.model.metrics
        assert begun["eval_loss"] == pytest.approx(ended["eval_loss"], abs=1e-5)
    else:
        assert second.run() == ExitCode.CONFIGURATION
        assert "set model.adapter.lora.merge: true" in second.report.message
        assert second.report.place.field == "model.adapter.lora.merge"


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (["pos", "neg"], "its rows are reordered by label from neg, pos to pos, neg"),
        (["pos", "neg", "mixed"], "has 2 outputs, and this job needs 3"),
    ],
)
def test_the_head_of_an_adapter_follows_the_names_of_the_labels(make_job, claim, labels, sentence):
    first = first_job(make_job, claim)
    second = second_job(make_job, claim, objective={"classification": {"labels": labels}})
    assert second.run() == ExitCode.DONE
    assert sentence in second.report.effective.head
    if len(labels) == 2:
        loss = first.report.model.metrics["eval_loss"]
        assert second.report.model.metrics["eval_loss"] == pytest.approx(loss, abs=1e-5)


def test_the_adapter_of_another_task_gives_its_body_and_no_head(make_job, claim):
    first_job(make_job, claim, "next tokens")
    second = second_job(make_job, claim)
    assert second.run() == ExitCode.DONE
    assert "new head: the base model has none for this objective" in second.report.effective.head


def test_tokens_can_be_added_to_a_merged_adapter(make_job, claim):
    first = first_job(make_job, claim)
    tokens = {"addTokens": ["neverseen", "norever"]}
    second = second_job(make_job, claim, model=tokens)
    assert second.run() == ExitCode.DONE
    loss = first.report.model.metrics["eval_loss"]
    assert second.report.model.metrics["eval_loss"] == pytest.approx(loss, abs=1e-5)


def test_an_adapter_of_random_weights_gives_its_architecture_only(make_job, claim):
    first_job(make_job, claim)
    second = second_job(make_job, claim, model={"initialize": "Random"})
    assert second.run() == ExitCode.DONE
    assert second.report.resolved.model.merged_into is None
    assert second.report.model.base_model == "pvc://models/base"


def foreign(claim, kind="bert", auto_class="AutoModelForSequenceClassification", labels=2, rows=0, **lora):
    """An adapter that plain peft wrote, with its matrices moved; returns the adapted model."""
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model

    base = build(kind, claim / "base")
    torch.manual_seed(5)
    model = getattr(transformers, auto_class).from_pretrained(base, num_labels=labels)
    if rows:
        model.resize_token_embeddings(rows)
    model = get_peft_model(model, LoraConfig(**{"target_modules": "all-linear"} | lora)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(claim / "foreign", save_embedding_layers=rows > 0)
    settings = json.loads((claim / "foreign" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(base)
    return model


CAUSAL = {
    "llama": {"task_type": "CAUSAL_LM"},
    "gpt2": {"task_type": "CAUSAL_LM", "fan_in_fan_out": True, "target_modules": ["c_attn"]},
}


def loaded(claim, objective):
    """By the trainer, from a folder without URI: the base model is named by its path."""
    spec = ModelInput(path=str(claim / "foreign"))
    config = RunConfig.from_json(run_json(claim, spec))
    folder = check_model(spec, partial(find_base, config=config, stop=Stop()))
    return load_model(folder, spec, objective, 0)


def run_json(claim, spec, **model):
    places = {
        "modelDir": str(claim / "out"),
        "stagingDir": str(claim / ".out"),
        "checkpointDir": str(claim / ".steps"),
        "uri": "pvc://models/out",
    }
    return {
        "job": {"name": "tiny"},
        "model": spec.to_json() | model,
        "dataset": {"train": {"path": "train.jsonl"}},
        "objective": {"classification": {}},
        "output": places,
    }


def logits(model):
    import torch

    ids = torch.randint(4, 30, (4, 7), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


@pytest.mark.parametrize(
    "lora",
    [
        {},
        {"use_rslora": True, "r": 4, "lora_alpha": 3},
        {"use_dora": True},
        {"rank_pattern": {"query": 2}, "alpha_pattern": {"query": 64}},
        {"bias": "all"},
        {"modules_to_save": ["classifier", "pooler"]},
        {"init_lora_weights": "pissa"},
        {"target_modules": ["word_embeddings", "query"]},
        {"trainable_token_indices": [4, 5]},
    ],
    ids=lambda lora: ",".join(lora) or "plain",
)
def test_adapters_of_every_kind_are_merged_as_peft_computes_them(claim, lora):
    model = foreign(claim, task_type="SEQ_CLS", **lora)
    found = loaded(claim, Classification(["0", "1"]))
    assert "matched by index" in found.head.sentence
    assert (logits(found.model) - logits(model)).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("kind", "saved"),
    [
        ("llama", ["embed_tokens", "lm_head"]),
        ("llama", ["embed_tokens"]),
        ("llama", None),
        ("gpt2", ["wte"]),
        ("gpt2", None),
    ],
)
def test_an_adapter_with_more_tokens_than_its_base_brings_their_embeddings(claim, kind, saved):
    """GPT-2's input and output embeddings are tied: peft writes both, and unties those that it trained."""
    model = foreign(claim, kind, "AutoModelForCausalLM", rows=360, modules_to_save=saved, **CAUSAL[kind])
    found = loaded(claim, CausalLM()).model
    assert len(found.get_input_embeddings().weight) == 360
    assert (logits(found) - logits(model)).abs().max() < 1e-5


def test_an_adapter_that_lacks_an_embedding_of_its_additional_tokens_is_refused(claim):
    from safetensors.torch import load_file, save_file

    foreign(claim, "llama", "AutoModelForCausalLM", rows=360, **CAUSAL["llama"])
    path = claim / "foreign" / "adapter_model.safetensors"
    tensors = load_file(path)
    del tensors["base_model.model.lm_head.weight"]
    save_file(tensors, path)
    with pytest.raises(NotFoundError, match="additional tokens are incomplete"):
        loaded(claim, CausalLM())


def test_a_head_that_neither_adapter_nor_base_has_is_new(claim):
    """An adapter of the body alone, as those for embeddings of sentences are."""
    foreign(claim, auto_class="AutoModel", task_type="FEATURE_EXTRACTION")
    assert loaded(claim, Classification(["0", "1"])).head.order is None


def test_the_tokenizer_is_that_of_the_adapter_where_it_has_one(claim):
    foreign(claim, task_type="SEQ_CLS")
    spec = ModelInput(path=str(claim / "foreign"))
    assert check_model(spec, lambda _: claim / "base").tokenizer == claim / "base"
    for path in (claim / "base").glob("tokenizer*"):
        shutil.copy(path, claim / "foreign")
    assert check_model(spec, lambda _: claim / "base").tokenizer == claim / "foreign"


def spoiled(claim, how):
    """A plain adapter with one thing wrong."""
    model = foreign(claim, task_type="SEQ_CLS", labels=3 if how == "labels" else 2)
    adapter, base = claim / "foreign", claim / "base"
    settings = json.loads((adapter / "adapter_config.json").read_text())
    if how == "pickled":
        (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    if how == "IA3":
        settings["peft_type"] = "IA3"
    if how == "newer peft":
        settings["use_invented"] = True
    if how in ("quantized", "base is an adapter"):
        config = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps(config | {"quantization_config": {}}))
    if how == "base is an adapter":
        (base / "adapter_config.json").write_text('{"base_model_name_or_path": "org/other"}')
    if how == "other base":
        shutil.rmtree(base)
        build("roberta", base)
    if how == "other weights":
        (adapter / "run.json").write_text('{"report": {"resolved": {"model": {"digest": "sha256:1"}}}}')
    if how == "more tensors":
        import safetensors.torch

        tensors = safetensors.torch.load_file(adapter / "adapter_model.safetensors")
        tensors = {name.replace("layer.1", "layer.7"): tensor for name, tensor in tensors.items()}
        safetensors.torch.save_file(tensors, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    return model


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("pickled", "has only pickled weights (adapter_model.bin)"),
        ("IA3", "peft_type IA3; only LORA can be merged"),
        ("newer peft", "use_invented"),
        ("quantized", "is quantized"),
        ("base is an adapter", "base holds an adapter of org/other"),
        ("other base", "cannot be merged into"),
        ("other weights", "is not the model that the adapter"),
        ("more tensors", "tensors of the adapter do not fit"),
        ("labels", "an adapter with labels needs its own config.json"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_with_the_reason(claim, how, sentence):
    spoiled(claim, how)
    with pytest.raises(NotFoundError) as caught:
        loaded(claim, Classification(["0", "1"]))
    assert sentence in caught.value.message
    assert str(claim) in caught.value.message
    assert caught.value.place.field == "model.uri"


@pytest.mark.parametrize(
    ("base", "sentence"),
    [
        ("pvc://models/gone", "no folder {claim}/gone"),
        ("pvc://other/base", "is on the claim other (they are on data, models)"),
        ("pvc://models/../base", "no folder"),
        ("/nowhere/base", "no folder /nowhere/base"),
        ("org/base", "no folder org/base, and hf://org/base@main on the Hugging Face Hub"),
        ("no/such/path", "no folder no/such/path"),
        ("", "adapter_config.json does not name its base model"),
    ],
)
def test_a_base_model_that_is_not_found_is_named_with_where_it_was_looked_for(
    make_job, claim, base, sentence
):
    adapter = claim / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    settings = {"peft_type": "LORA", "base_model_name_or_path": base, "revision": "main"}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    made = on_claim(make_job(), claim, "adapter", "out")
    assert made.run() == ExitCode.NOT_FOUND
    assert sentence.format(claim=claim) in made.report.message
    assert "train it with model.adapter.lora.merge: true and use that folder" in made.report.message
    assert made.report.place.field == "model.uri"


def test_claims_are_found_by_the_inputs_and_the_output_that_lie_on_them(claim):
    spec = ModelInput(
        path="/mnt/claims/a/b/c", uri="pvc://a/b/c", tokenizer_path="x", tokenizer_uri="pvc://t/y"
    )
    config = RunConfig.from_json(run_json(claim, spec))
    assert {name: str(path) for name, path in claim_roots(config).items()} == {
        "a": "/mnt/claims/a",
        "models": str(claim),
    }


def test_a_base_model_on_the_hub_is_fetched_at_the_revision_of_the_adapter(claim, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(client, "RETRY_SECONDS", ())
    foreign(claim, task_type="SEQ_CLS")
    files = {path.name: path.read_bytes() for path in (claim / "base").iterdir()}
    settings = json.loads((claim / "foreign" / "adapter_config.json").read_text())
    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        first = server.repository("org/base", files, "v1")
        server.repositories["org/base"].commit({"config.json": b"{}"})
        settings |= {"base_model_name_or_path": "org/base", "revision": "v1"}
        (claim / "foreign" / "adapter_config.json").write_text(json.dumps(settings))
        spec = ModelInput(path=str(claim / "foreign"), uri="hf://org/adapter")
        config = run_json(claim, spec)
        config["output"]["hubDir"] = str(tmp_path / "hub")
        found = find_base(read_adapter(spec), RunConfig.from_json(config), Stop())
    assert found.name == first
    assert (found / "model.safetensors").read_bytes() == files["model.safetensors"]
