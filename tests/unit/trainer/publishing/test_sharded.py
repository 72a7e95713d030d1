"""The folder of a sharded model is that of a whole one, and no rank holds the model while it is written."""

import json
from types import SimpleNamespace

import pytest

from finetune_api.run import ModelInput
from finetune_api.training import Sharding
from finetune_trainer.objectives.causal_lm import CausalLM
from finetune_trainer.objectives.classification import Classification
from unit.trainer.architectures import build
from unit.trainer.models.test_slices import CLASSES, loaded, moe, state
from unit.trainer.peak import Peak, llama, placed
from unit.trainer.runs import largest_difference, on_ranks

MODELS = {
    "bert": ("bert", CLASSES, {}),
    "bert with a custom head": ("bert", CLASSES, {"head": {"hiddenSizes": [8], "batchNorm": True}}),
    "bert with LoRA": ("bert", CLASSES, {"adapter": {"lora": {"rank": 2}}}),
    "bert with merged LoRA": ("bert", CLASSES, {"adapter": {"lora": {"rank": 2, "merge": True}}}),
    "gpt2, tied": ("gpt2", CausalLM(), {}),
    "llama": ("llama", CausalLM(), {}),
    "a mixture of experts": ("mixtral", CausalLM(), {}),
    "a mixture of experts from random weights": ("mixtral", CausalLM(), {"initialize": "Random"}),
    "llama for classification": ("llama", Classification(["a", "b"]), {}),
}


def written(model, spec, folder, dtype, main=True):
    """What a rank does at the end of a run."""
    from finetune_trainer.models.adapters import save_weights
    from finetune_trainer.models.precision import cast, published_part
    from finetune_trainer.publishing.sharded import gather_small, is_sharded, take_part, write_sharded

    gather_small(model, spec)
    streamed = is_sharded(model, spec)
    if not main:
        return streamed and take_part(model, dtype)
    folder.mkdir()
    cast(published_part(model), dtype)
    if streamed:
        write_sharded(model, folder, dtype)
    else:
        save_weights(model, spec, folder)
    return streamed


def contents(folder):
    """Tensors and JSON of every file, by its name."""
    from safetensors.torch import load_file

    found = {path.name: load_file(path) for path in folder.glob("*.safetensors")}
    return found, {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}


def check_same(whole, sharded):
    """The same files, tensors, number formats and settings."""
    import torch

    (tensors, settings), (found, theirs) = contents(whole), contents(sharded)
    assert settings == theirs
    assert tensors.keys() == found.keys()
    for file, expected in tensors.items():
        assert expected.keys() == found[file].keys()
        for name, value in expected.items():
            assert found[file][name].dtype == value.dtype
            assert torch.equal(value, found[file][name]), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_the_folder_is_that_of_a_whole_model(tmp_path, name, dtype):
    import torch

    architecture, objective, settings = MODELS[name]
    path = moe(tmp_path / "model") if architecture == "mixtral" else build(architecture, tmp_path / "model")
    spec = ModelInput.model_validate({"path": str(path), "uri": "pvc://models/base", **settings})
    wanted = getattr(torch, dtype)
    written(loaded(path, objective, **settings), spec, tmp_path / "whole", wanted)

    def body(ranks):
        model = placed(loaded(path, objective, ranks.reading_mesh, **settings), ranks)
        return written(model, spec, tmp_path / "sharded", wanted, ranks.is_main)

    first, _, _ = on_ranks(3, body, tmp_path, Sharding.FULL)
    assert first == ("LoRA" not in name and "experts" not in name)
    check_same(tmp_path / "whole", tmp_path / "sharded")


def test_a_large_model_has_several_files_and_an_index(tmp_path, monkeypatch):
    import torch

    from finetune_trainer.models import adapters
    from finetune_trainer.publishing import sharded

    for module in (adapters, sharded):
        monkeypatch.setattr(module, "SHARD_SIZE", "20KB")
    path = build("llama", tmp_path / "model")
    spec = ModelInput.model_validate({"path": str(path), "uri": "pvc://models/base"})
    written(loaded(path, CausalLM()), spec, tmp_path / "whole", torch.float32)

    def body(ranks):
        model = placed(loaded(path, CausalLM(), ranks.reading_mesh), ranks)
        return written(model, spec, tmp_path / "sharded", torch.float32, ranks.is_main)

    assert on_ranks(2, body, tmp_path, Sharding.FULL)[0]
    files, settings = contents(tmp_path / "sharded")
    assert len(files) > 3
    index = settings["model.safetensors.index.json"]
    assert index["weight_map"] == {name: file for file, tensors in files.items() for name in tensors}
    assert index["metadata"] == contents(tmp_path / "whole")[1]["model.safetensors.index.json"]["metadata"]
    expected, found = (state(loaded(folder, CausalLM()))[0] for folder in (path, tmp_path / "sharded"))
    assert largest_difference(expected, found) == 0


def test_no_rank_holds_the_model_while_it_is_written(tmp_path):
    """160 MiB: a rank needs a tensor or two beyond its share, of which the largest has 16 MiB."""
    import torch

    model = llama(tmp_path / "model", 512)
    spec: ModelInput = ModelInput.model_validate({"path": str(model.folder), "uri": "pvc://models/base"})

    def body(ranks):
        share = placed(loaded(model.folder, CausalLM(), ranks.reading_mesh), ranks)
        with Peak() as peak:
            written(share, spec, tmp_path / "sharded", torch.bfloat16, ranks.is_main)
        return SimpleNamespace(grown=peak.grown)

    for answer in on_ranks(2, body, tmp_path, Sharding.FULL):
        assert answer.grown < 4 * model.layer < model.size / 2
