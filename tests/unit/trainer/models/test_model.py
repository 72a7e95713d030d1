"""The model as training uses it: dropout everywhere, activations computed again, texts of a length that it takes."""

from types import SimpleNamespace

import pytest

from finetune_api.run import ExitCode, ModelInput
from finetune_trainer.combine.pipeline import longest_of_all
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.models.folder import ModelFolder
from finetune_trainer.models.load import checkpoint_activations, load_model
from finetune_trainer.models.tokenizer import longest_input
from finetune_trainer.objectives.classification import Classification
from unit.trainer.tiny import build_model

SIZES = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
ARCHITECTURES = ["Bert", "Roberta", "GPT2", "Llama"]


def loaded(tmp_path, name, **spec):
    """A tiny model of an architecture, by the trainer's own loader."""
    import torch
    import transformers

    torch.manual_seed(3)
    config = getattr(transformers, f"{name}Config")(vocab_size=32, pad_token_id=0, **SIZES)
    getattr(transformers, f"{name}Model")(config).save_pretrained(tmp_path)
    folder = ModelFolder(tmp_path, tmp_path, name, None, "")
    return load_model(folder, ModelInput(path=str(tmp_path), **spec), Classification(["a", "b"]), 0).model


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("head", [None, {"hidden_sizes": [4]}], ids=["own", "new head"])
def test_a_dropout_reaches_every_place_of_every_architecture(tmp_path, name, head):
    import torch

    model = loaded(tmp_path, name, dropout=0.25, head=head)
    modules = [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    attention = [
        m.attention_dropout
        for m in model.modules()
        if isinstance(getattr(m, "attention_dropout", None), float)
    ]
    assert set(modules) | set(attention) == {0.25}
    fields = {key: value for key, value in model.config.to_dict().items() if "drop" in key}
    assert {value for value in fields.values() if value is not None} == {0.25}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_without_dropout_training_is_deterministic_and_with_it_is_not(tmp_path, name):
    import torch

    inputs = {
        "input_ids": torch.arange(1, 13).view(2, 6),
        "attention_mask": torch.ones(2, 6, dtype=torch.long),
    }
    for dropout, same in ((0.0, True), (0.3, False)):
        model = loaded(tmp_path, name, dropout=dropout).train()
        first, second = model(**inputs).logits, model(**inputs).logits
        assert torch.equal(first, second) is same


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("adapter", [None, {"lora": {"merge": True}}], ids=["whole", "adapter"])
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_activations_computed_again_give_the_same_gradients(tmp_path, name, adapter):
    import torch

    inputs = {
        "input_ids": torch.arange(1, 13).view(2, 6),
        "attention_mask": torch.ones(2, 6, dtype=torch.long),
    }
    gradients, calls = [], []
    for again in (False, True):
        model = loaded(tmp_path, name, dropout=0.1, adapter=adapter).train()
        if again:
            checkpoint_activations(model, name)
        layer = max((m for m in model.modules() if isinstance(m, torch.nn.ModuleList)), key=len)[0]
        count = []
        inner = next(m for m in layer.modules() if "Attention" in type(m).__name__)
        inner.register_forward_pre_hook(lambda *_, count=count: count.append(1))
        torch.manual_seed(5)
        model(**inputs).logits.square().sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        calls.append(len(count))
    assert calls == [1, 2]
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][n], gradients[1][n]) for n in gradients[0])


def test_an_architecture_that_cannot_is_refused():
    import transformers

    model = transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=8, **SIZES))
    model.supports_gradient_checkpointing = False
    with pytest.raises(ConfigurationError, match="activationCheckpointing: the architecture of tiny"):
        checkpoint_activations(model, "tiny")


@pytest.mark.parametrize("name", [*ARCHITECTURES, "Camembert", "MPNet", "Esm", "Longformer", "Bart"])
def test_the_longest_input_is_taken_and_one_token_more_is_not(tmp_path, name):
    """Of positions that are counted from the padding token's id on, as RoBERTa's are, some are never used."""
    import torch
    import transformers

    sizes = {"max_position_embeddings": 16, "vocab_size": 32, "pad_token_id": 1, **SIZES}
    if name == "Bart":
        sizes |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    if name == "Longformer":
        sizes["attention_window"] = [4, 4]
    config = getattr(transformers, f"{name}Config")(**sizes)
    config.save_pretrained(tmp_path)
    model = getattr(transformers, f"{name}Model")(config).eval()
    endless = SimpleNamespace(model_max_length=10**30)
    longest = longest_input(model, endless)
    assert longest_of_all([tmp_path], endless) == longest
    ids = torch.full((1, longest + 1), 5)
    assert model(input_ids=ids[:, 1:]).last_hidden_state.shape[1] == longest
    if name == "Llama":  # its positions are turned, not looked up
        return
    with pytest.raises((IndexError, RuntimeError), match=r"index|size"):
        model(input_ids=ids)
    assert longest_input(model, SimpleNamespace(model_max_length=7)) == 7


@pytest.mark.parametrize(("able", "expected"), [(10**30, None), (7, 7)])
def test_a_model_without_a_limit_is_cut_by_the_tokenizer_alone(able, expected):
    """XLNet gives -1 for it."""
    import transformers

    model = transformers.XLNetModel(transformers.XLNetConfig(vocab_size=32, d_model=8, n_layer=1, n_head=2))
    assert longest_input(model, SimpleNamespace(model_max_length=able)) == expected


@pytest.mark.parametrize("summary", ["last", "mean", "cls_index"])
@pytest.mark.parametrize("objective", ["classification", "regression"])
def test_a_head_that_would_read_the_padding_is_refused_with_the_remedy(
    make_job, tmp_path, summary, objective
):
    """XLNet's takes the last position, as its own tokenizer pads on the left."""
    base = xlnet(tmp_path, summary_type=summary)
    changes = {"classification": {}, "regression": {"dataset": {"columns": {"label": "rating"}}}}
    made = make_job(objective={objective: {}}, **changes[objective]).changed({"model": {"path": str(base)}})
    assert made.run() == ExitCode.CONFIGURATION
    assert f"tiny sums a text up by summary_type {summary!r}" in made.report.message
    assert "set model.head" in made.report.message
    assert made.report.place.field == "model.uri"


@pytest.mark.parametrize("changes", [{"summary_type": "first"}, {}], ids=["the first position", "a new head"])
def test_a_head_that_reads_the_tokens_alone_is_taken(make_job, tmp_path, changes):
    import torch

    head = None if changes else {}
    base = xlnet(tmp_path, **changes)
    made = make_job(training={"epochs": 1}).changed({"model": {"path": str(base), "head": head}})
    assert made.run() == ExitCode.DONE
    folder = ModelFolder(base, base, "tiny", None, "")
    spec = ModelInput.model_validate({"path": str(base), "head": head})
    model = load_model(folder, spec, Classification(["a", "b"]), 0).model.eval()
    ids, mask = torch.tensor([[5, 6, 7, 0, 0]]), torch.tensor([[1, 1, 1, 0, 0]])
    with torch.no_grad():
        alone, padded = (model(input_ids=ids[:, :end], attention_mask=mask[:, :end]).logits for end in (3, 5))
    assert alone.std() > 1e-4
    assert (alone - padded).abs().max() < 1e-6


def xlnet(tmp_path, **changes):
    """A checkpoint with the tokenizer of the tiny BERT."""
    from transformers import AutoTokenizer, XLNetConfig, XLNetModel

    folder = build_model(tmp_path / "xlnet")
    size = len(AutoTokenizer.from_pretrained(folder))
    config = XLNetConfig(vocab_size=size, d_model=8, n_layer=1, n_head=2, d_inner=8, **changes)
    XLNetModel(config).save_pretrained(folder)
    return folder


def test_a_deterministic_run_has_torch_refuse_everything_else(make_job, monkeypatch):
    import torch

    seen = []
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    made = make_job(training={"epochs": 1, "deterministic": True, "activationCheckpointing": True})
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda *_: seen.append(torch.are_deterministic_algorithms_enabled())
    )
    try:
        assert made.run() == ExitCode.DONE
    finally:
        hook.remove()
        torch.use_deterministic_algorithms(False)
    assert set(seen) == {True}
