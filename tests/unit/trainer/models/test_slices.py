"""Models that are read in slices by several ranks: the weights of a whole one, in a part of its memory."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from finetune_api.run import ModelInput
from finetune_api.training import Sharding
from finetune_trainer.errors import NotFoundError
from finetune_trainer.objectives.causal_lm import CausalLM
from finetune_trainer.objectives.classification import Classification
from unit.trainer.architectures import build
from unit.trainer.peak import llama, loading
from unit.trainer.runs import largest_difference, on_ranks


def loaded(path, objective, mesh=None, added=None, **spec):
    """The model of a folder for an objective."""
    import torch

    from finetune_trainer.models.load import load_model

    torch.manual_seed(3)
    folder = SimpleNamespace(path=Path(path), name="base", adapter=None)
    given = ModelInput.model_validate({"path": str(path), "uri": "pvc://models/base", **spec})
    return load_model(folder, given, objective, 0, added, mesh).model


def state(model):
    """All its tensors, whole, as arrays, and the names of those that are sharded."""
    from torch.distributed.tensor import DTensor

    from finetune_trainer.distributed import full_tensor

    tensors = model.state_dict()
    divided = {name for name, value in tensors.items() if isinstance(value, DTensor)}
    return {name: full_tensor(value.float()).numpy().copy() for name, value in tensors.items()}, divided


def moe(folder):
    """A mixture of experts: its file has one tensor for each expert, its model one for all."""
    import torch
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(7)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 61}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 5}
    MixtralForCausalLM(MixtralConfig(**sizes, **heads)).save_pretrained(folder)
    return folder


CLASSES = Classification(["a", "b", "c"])
LORA = {"adapter": {"lora": {"rank": 2}}}
MODELS = {
    "bert with a new head": ("bert", CLASSES, {}),
    "bert with a custom head": ("bert", CLASSES, {"head": {"hiddenSizes": [8]}}),
    "bert with LoRA": ("bert", CLASSES, LORA),
    "gpt2, tied": ("gpt2", CausalLM(), {}),
    "llama": ("llama", CausalLM(), {}),
    "llama with LoRA": ("llama", CausalLM(), LORA),
    "a mixture of experts": ("mixtral", CausalLM(), {}),
}


@pytest.mark.parametrize("name", MODELS)
def test_slices_together_are_the_whole_model(tmp_path, name):
    """Three ranks, of which the last has fewer rows; what the folder lacks is drawn as in one process."""
    architecture, objective, spec = MODELS[name]
    path = moe(tmp_path / "model") if architecture == "mixtral" else build(architecture, tmp_path / "model")
    expected, _ = state(loaded(path, objective, **spec))

    def body(ranks):
        model = loaded(path, objective, ranks.reading_mesh, **spec)
        return type(model).__name__, *state(model)

    for kind, found, divided in on_ranks(3, body, tmp_path, Sharding.FULL):
        assert kind == type(loaded(path, objective, **spec)).__name__
        assert largest_difference(expected, found) == 0
        matrices = {each for each, value in expected.items() if "layer" in each and value.ndim > 1}
        assert divided >= {each for each in matrices if "lora" not in each and "pooler" not in each}


def test_embeddings_stay_whole_where_tokens_are_added(tmp_path):
    path = build("llama", tmp_path / "model")
    rows = len(loaded(path, CausalLM()).get_input_embeddings().weight)
    added = {rows: [3, 4]}
    expected, _ = state(loaded(path, CausalLM(), added=added))

    def body(ranks):
        return state(loaded(path, CausalLM(), ranks.reading_mesh, added))

    for found, _ in on_ranks(2, body, tmp_path, Sharding.FULL):
        assert largest_difference(expected, found) == 0


def test_a_number_that_is_not_finite_in_the_slice_of_one_rank_ends_all(tmp_path):
    from safetensors.torch import load_file, save_file

    file = build("llama", tmp_path / "model") / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"][-1, 2] = float("nan")
    save_file(tensors, file, {"format": "pt"})

    def body(ranks):
        return loaded(file.parent, CausalLM(), ranks.reading_mesh)

    for error in on_ranks(2, body, tmp_path, Sharding.FULL):
        assert isinstance(error, NotFoundError)
        assert "1 of the 2048 numbers of model.layers.1.mlp.up_proj.weight" in str(error)


@pytest.mark.parametrize("name", ["bert with a custom head", "gpt2, tied", "llama with LoRA"])
def test_probes_see_the_whole_model(tmp_path, name):
    """A few tokens give the outputs of a model in one process, and its weights are slices again afterwards."""
    import torch

    from finetune_trainer.models.slices import gathered

    architecture, objective, spec = MODELS[name]
    path = build(architecture, tmp_path / "model")
    ids = torch.tensor([[5, 6, 7]])

    def outputs(model):
        with torch.no_grad():
            return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.numpy()

    def body(ranks):
        model = loaded(path, objective, ranks.reading_mesh, **spec)
        with gathered(model):
            found = outputs(model)
        return found, state(model)[1]

    expected = outputs(loaded(path, objective, **spec))
    for found, divided in on_ranks(2, body, tmp_path, Sharding.FULL):
        assert abs(found - expected).max() < 1e-6
        assert divided


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """250 MiB in float32, stored in bfloat16; a layer has 25 MiB, each of the embeddings too."""
    return llama(tmp_path_factory.mktemp("large"), 640)


@pytest.mark.parametrize(("data", "tensor"), [(2, 1), (4, 1), (1, 2), (1, 4), (2, 2)])
def test_a_rank_needs_its_share_and_one_layer(large, data, tensor):
    """In host memory, from the files to the sharded or divided model that is ready to train."""
    share = large.share(data, tensor)
    for grown in loading(large.folder, data, tensor):
        assert 0.9 * share < grown < share + large.layer, (
            f"of {large.size:.0f} MiB, a layer {large.layer:.0f}"
        )
