"""Frozen weights in 16 or 4 bits: what is kept how, that nothing else changes, and what is published of them."""

import json

import pytest
import torch
from bitsandbytes.functional import get_4bit_type
from safetensors.torch import load_file, save_file

from finetune_api.run import ModelInput
from finetune_api.training import TrainingSpec
from finetune_trainer.errors import ConfigurationError, NotFoundError
from finetune_trainer.layers.frozen import FrozenLinear, Nf4Linear, freeze_in_nf4, packed
from finetune_trainer.models.folder import check_folder
from finetune_trainer.models.frozen_weights import parameters_of, storage_of, weights_by_format
from finetune_trainer.models.load import least_memory, load_model
from finetune_trainer.models.skeleton import skeleton
from finetune_trainer.models.unquantized import publishable
from finetune_trainer.objectives.causal_lm import CausalLM
from finetune_trainer.objectives.classification import Classification
from unit.trainer.architectures import build

LANGUAGE_MODELS = ("gpt2", "llama")
LORA = {"adapter": {"lora": {"merge": True}}}
FROZEN = {"freeze": {"layers": 1, "embeddings": True}}
IDS = {"input_ids": torch.tensor([[4, 5, 6, 7]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}


@pytest.fixture
def checkpoint(tmp_path):
    """A folder whose weights have this number format."""

    def make(architecture, dtype=torch.float32, *, tied=False):
        folder = build(architecture, tmp_path)
        for path in folder.glob("*.safetensors"):
            tensors = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
            if tied:
                tensors.pop("lm_head.weight")
            save_file(tensors, path, {"format": "pt"})
        if tied:
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
        return folder

    return make


def task(architecture):
    """What the architecture is made for."""
    return CausalLM() if architecture in LANGUAGE_MODELS else Classification(["a", "b"])


def load(folder, architecture, weights, how):
    """The model as a run has it, for evaluation."""
    spec = ModelInput(path=str(folder), weights=weights, **how)
    given, objective = check_folder(spec), task(architecture)
    torch.manual_seed(0)
    storage = storage_of(given, spec)
    model = load_model(given, spec, objective, 0, storage=storage).model.eval()
    return model, given, spec, objective


def formats(model):
    """Number formats of what is frozen and of what is trained."""
    parts = weights_by_format(model)
    return {one.format for one in parts if not one.trained}, {one.format for one in parts if one.trained}


@pytest.mark.parametrize("how", [LORA, FROZEN], ids=["LoRA", "freeze"])
@pytest.mark.parametrize("architecture", ["bert", "roberta", "albert", "gpt2", "llama"])
def test_auto_keeps_the_digits_of_the_checkpoint_and_changes_no_result(checkpoint, architecture, how):
    folder = checkpoint(architecture, torch.bfloat16)
    plain, *_ = load(folder, architecture, "Float32", how)
    kept, *_ = load(folder, architecture, "Auto", how)
    assert formats(plain) == ({"Float32"}, {"Float32"})
    assert formats(kept) == ({"BFloat16", "Float32"}, {"Float32"})
    assert parameters_of(kept) == parameters_of(plain)
    for enabled in (False, True):
        results = []
        for model in (plain, kept):
            model.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                logits = model(**IDS).logits
            logits.float().square().sum().backward()
            trained = [one for one in model.parameters() if one.requires_grad]
            results.append([logits, *trained, *(one.grad for one in trained if one.grad is not None)])
        assert len(results[0]) > 3
        assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


@pytest.mark.parametrize(
    ("weights", "dtype", "found"),
    [
        ("Auto", torch.float32, {"Float32"}),
        ("Auto", torch.float16, {"Float16", "Float32"}),
        ("BFloat16", torch.float32, {"BFloat16", "Float32"}),
        ("NF4", torch.float32, {"NF4", "BFloat16", "Float32"}),
        ("NF4", torch.float16, {"NF4", "Float16", "Float32"}),
        ("Float32", torch.bfloat16, {"Float32"}),
    ],
)
def test_frozen_weights_are_kept_as_asked_and_trained_ones_in_float32(checkpoint, weights, dtype, found):
    model, *_ = load(checkpoint("llama", dtype), "llama", weights, LORA)
    assert formats(model) == (found, {"Float32"})


def test_a_model_that_is_trained_whole_is_in_float32(checkpoint):
    model, *_ = load(checkpoint("llama", torch.bfloat16), "llama", "Auto", {})
    assert formats(model) == (set(), {"Float32"})


@pytest.mark.parametrize("weights", ["Float32", "Auto", "BFloat16"])
def test_a_head_that_config_json_calls_tied_is_trained_where_the_embeddings_are_frozen(checkpoint, weights):
    """The checkpoint has two different tables."""
    folder = checkpoint("llama", torch.bfloat16)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    model, *_ = load(folder, "llama", weights, {"freeze": {"embeddings": True}})
    model(**IDS).logits.square().sum().backward()
    head, table = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert (head.dtype, table.requires_grad) == (torch.float32, False)
    assert head.grad.norm() > 0


def test_layers_that_are_unfrozen_later_are_in_float32(checkpoint):
    how = {"freeze": {"layers": 2, "unfreezeEvery": {"steps": 1}}}
    model, *_ = load(checkpoint("llama", torch.bfloat16), "llama", "Auto", how)
    assert formats(model) == ({"Float32"}, {"Float32"})


def test_sharded_weights_stay_in_float32(checkpoint):
    spec = ModelInput(path=str(checkpoint("llama", torch.bfloat16)), **LORA)
    given = check_folder(spec)
    assert storage_of(given, spec) is not None
    assert storage_of(given, spec, divided=True) is None


def test_nf4_packs_every_matrix_of_the_body_with_the_error_of_four_bits(checkpoint):
    folder = checkpoint("llama", tied=True)
    plain, *_ = load(folder, "llama", "Float32", LORA)
    kept, *_ = load(folder, "llama", "NF4", LORA)
    names = {name for name, module in kept.named_modules() if isinstance(module, Nf4Linear)}
    linear = {name for name, module in plain.named_modules() if name.endswith(".base_layer")}
    assert names == linear
    for name in names:
        packed, whole = kept.get_submodule(name), plain.get_submodule(name).weight
        error = (packed.matrix(torch.float32) - whole).norm() / whole.norm()
        assert 0.05 < error < 0.12, name
    assert isinstance(kept.get_output_embeddings(), FrozenLinear)
    assert kept.get_output_embeddings().weight is kept.get_input_embeddings().weight


@pytest.mark.parametrize("shape", [(7, 13), (16, 32), (5, 100), (64, 64), (1, 1), (300, 257), (1100, 257)])
def test_four_bits_are_right_for_every_shape(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    layer = freeze_in_nf4(torch.nn.Linear(shape[1], shape[0]), "layer")
    layer.weight, scales = packed(weight)
    layer.scaled(scales)
    flat = torch.nn.functional.pad(weight.flatten(), (0, -weight.numel() % 64)).view(-1, 64)
    levels, largest = get_4bit_type("nf4", device="cpu"), flat.abs().amax(dim=1, keepdim=True)
    nearest = levels[(flat[..., None] / largest[..., None] - levels).abs().argmin(dim=-1)] * largest
    expected = nearest.flatten()[: weight.numel()].view(shape)
    assert torch.allclose(layer.matrix(torch.float32), expected, rtol=0.03, atol=1e-6)


def test_gradients_reach_the_adapter_through_four_bits_and_the_same_bits_come_twice(checkpoint):
    folder, runs = checkpoint("llama"), []
    for _ in range(2):
        model, *_ = load(folder, "llama", "NF4", LORA)
        optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.5)
        losses = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = model(**IDS, labels=IDS["input_ids"]).loss
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        runs.append((losses, [one.detach().clone() for one in model.parameters() if one.requires_grad]))
    assert runs[0][0][-1] < runs[0][0][0]
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(*pair) for pair in zip(runs[0][1], runs[1][1], strict=True))


@pytest.mark.parametrize("weights", ["Float32", "Auto", "BFloat16", "NF4"])
@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_the_skeleton_and_the_least_need_are_those_of_the_loaded_model(checkpoint, architecture, weights):
    model, given, spec, objective = load(
        checkpoint(architecture, torch.bfloat16), architecture, weights, LORA
    )
    shapes = [
        {name: (part.shape, part.dtype) for name, part in one.named_parameters()}
        for one in (model, skeleton(given, spec, objective, 0))
    ]
    assert shapes[0] == shapes[1]
    lora = sum(one.numel() * 4 for name, one in model.named_parameters() if "lora_" in name)
    held = sum(one.numel() * one.element_size() for one in [*model.parameters(), *model.buffers()])
    copies = sum(
        one.numel() * 4 for name, one in model.named_parameters() if "original_module" in name
    )  # of a head, which peft keeps beside the trained one
    need = least_memory(given, spec, objective, TrainingSpec())
    assert need.parameters == held - lora - copies


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("weights", "stored"),
    [("Auto", torch.bfloat16), ("BFloat16", torch.float32), ("NF4", torch.float32), ("NF4", torch.bfloat16)],
)
def test_an_adapter_is_merged_into_the_weights_of_the_checkpoint(checkpoint, weights, stored, dtype, tied):
    folder = checkpoint("llama", stored, tied=tied)
    merged = []
    for one in ("Float32", weights):
        model, given, spec, objective = load(folder, "llama", one, LORA)
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
        found = publishable(model, given, spec, objective, dtype)
        assert not any(isinstance(module, Nf4Linear) for module in found.modules())
        outputs, inputs = found.get_output_embeddings(), found.get_input_embeddings()
        assert (outputs.weight is inputs.weight) == tied
        merged.append({name: tensor.to(dtype) for name, tensor in found.state_dict().items()})
    assert merged[0].keys() == merged[1].keys()
    assert all(torch.equal(merged[0][name], merged[1][name]) for name in merged[0])


def test_weights_that_are_not_finite_are_refused_before_four_bits_hide_them(checkpoint):
    folder = checkpoint("llama")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(NotFoundError, match=r"1 of the 2048 numbers of model.layers.1.mlp.up_proj.weight"):
        load(folder, "llama", "NF4", LORA)


def test_a_matrix_of_another_shape_is_refused(checkpoint):
    folder = checkpoint("llama")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(4, 4)
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(NotFoundError, match=r"lack 1 tensors .*model.layers.1.mlp.up_proj.weight"):
        load(folder, "llama", "NF4", LORA)


def test_a_body_without_linear_layers_is_refused(checkpoint):
    with pytest.raises(ConfigurationError, match="GPT2LMHeadModel has no layer of"):
        load(checkpoint("gpt2"), "gpt2", "NF4", LORA)


def without_head(folder):
    """The folder without the matrix that predicts tokens."""
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("lm_head.weight")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("weights", ["Auto", "BFloat16", "NF4"])
def test_a_head_that_the_checkpoint_lacks_is_trained_in_float32(checkpoint, weights):
    folder = checkpoint("llama", torch.bfloat16)
    without_head(folder)
    model, given, spec, objective = load(folder, "llama", weights, LORA)
    trained = {name: each.dtype for name, each in model.named_parameters() if each.requires_grad}
    assert set(trained.values()) == {torch.float32}
    head = next(each for name, each in model.named_parameters() if "lm_head" in name and each.requires_grad)
    head.data += 2.0**-12
    expected = head.detach().clone()
    made = publishable(model, given, spec, objective, torch.float32)
    assert torch.equal(made.lm_head.weight, expected)


def test_a_vocabulary_head_of_another_shape_is_refused(checkpoint):
    folder = checkpoint("llama")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = torch.cat([tensors["lm_head.weight"]] * 2)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        NotFoundError, match=r"lm_head.weight of .* has another shape than config.json asks for"
    ):
        load(folder, "llama", "Auto", LORA)


@pytest.mark.parametrize(
    ("weights", "how"),
    [(each, LORA) for each in ("Float32", "Auto", "BFloat16", "NF4")]
    + [("Auto", FROZEN), ("BFloat16", FROZEN)],
)
def test_a_head_that_config_json_calls_tied_and_the_checkpoint_has_is_published(checkpoint, weights, how):
    folder = checkpoint("llama", torch.bfloat16)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    made = publishable(*load(folder, "llama", weights, how), torch.float32)
    given = load_file(folder / "model.safetensors")
    assert not torch.equal(given["lm_head.weight"], given["model.embed_tokens.weight"])
    assert torch.equal(made.lm_head.weight, given["lm_head.weight"].float())
    assert torch.equal(made.model.embed_tokens.weight, given["model.embed_tokens.weight"].float())
