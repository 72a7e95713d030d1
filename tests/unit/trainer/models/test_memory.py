"""What a model needs is known before its weights are read, and a GPU that cannot hold it is refused then."""

import pytest

from finetune_api.run import ExitCode, ModelInput
from finetune_api.training import EmaSpec, OptimizerSpec, TrainingSpec
from finetune_trainer.errors import DeviceMemoryError, NotFoundError
from finetune_trainer.models.folder import ModelFolder
from finetune_trainer.models.load import least_memory, load_model
from finetune_trainer.models.skeleton import skeleton
from finetune_trainer.objectives.causal_lm import CausalLM
from finetune_trainer.objectives.classification import Classification
from finetune_trainer.process.memory import GIBIBYTE, Need, check_fits

SIZES = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}


@pytest.fixture
def folder(tmp_path):
    """A folder with nothing but the configuration of an architecture."""

    def write(name, **config):
        import transformers

        getattr(transformers, f"{name}Config")(
            vocab_size=32, pad_token_id=0, **SIZES, **config
        ).save_pretrained(tmp_path)
        return ModelFolder(tmp_path, tmp_path, name, None, "")

    return write


def held(model):
    """Bytes of the parameters and buffers; of the parameters alone that are trained."""
    parts = [*model.parameters(), *model.buffers()]
    trained = sum(p.numel() * 4 for p in model.parameters() if p.requires_grad)
    return sum(part.numel() * part.element_size() for part in parts), trained


@pytest.mark.parametrize(
    ("name", "config", "spec"),
    [
        ("Bert", {}, {}),
        ("Bert", {"dtype": "bfloat16"}, {}),
        ("Bert", {}, {"freeze": {"embeddings": True, "layers": 1}}),
        ("Roberta", {}, {}),
        ("GPT2", {}, {}),
        ("Llama", {"dtype": "bfloat16"}, {}),
        ("ModernBert", {}, {}),
        ("Albert", {"embedding_size": 4}, {}),
    ],
)
@pytest.mark.parametrize("optimizer", [{"name": "AdamW"}, {"name": "SGD"}, {"name": "SGD", "momentum": 0.9}])
def test_the_need_is_that_of_the_loaded_model_and_nothing_random_is_drawn(
    folder, name, config, spec, optimizer
):
    import torch

    objective, optimizer = Classification(["a", "b"]), OptimizerSpec(**optimizer)
    spec = ModelInput(path="unused", initialize="Random", **spec)
    base, before = folder(name, **config), torch.get_rng_state()
    need = least_memory(base, spec, objective, TrainingSpec(optimizer=optimizer))
    assert torch.equal(before, torch.get_rng_state())
    everything, trained = held(load_model(base, spec, objective, 0).model)
    states = 2 if optimizer.name == "AdamW" else int(optimizer.momentum > 0)
    assert need == Need(everything, trained, states * trained)


@pytest.mark.parametrize("name", ["GPT2", "Llama"])
@pytest.mark.parametrize("tied", [True, False])
def test_weights_under_two_names_count_once(folder, name, tied):
    base, spec = folder(name, tie_word_embeddings=tied), ModelInput(path="unused", initialize="Random")
    need = least_memory(base, spec, CausalLM(), TrainingSpec())
    everything, trained = held(load_model(base, spec, CausalLM(), 0).model)
    assert (need.parameters, need.gradients) == (everything, trained)


@pytest.mark.parametrize(
    ("name", "objective", "spec"),
    [
        ("Bert", Classification(["a"]), {}),
        ("Llama", CausalLM(), {"weights": "NF4", "adapter": {"lora": {}}}),
    ],
    ids=["float32", "NF4"],
)
def test_of_a_sharded_model_every_device_holds_its_part_and_all_buffers(folder, name, objective, spec):
    """Scales of weights in 4 bits are buffers, and ranks do not divide them."""
    base, spec = folder(name), ModelInput(path="unused", **spec)
    training = TrainingSpec(sharding="Full")
    whole, part = (least_memory(base, spec, objective, training, shards) for shards in (1, 4))
    model = skeleton(base, spec, objective, 0, divided=True)
    buffers = sum(one.numel() * one.element_size() for one in model.buffers())
    assert part.total - buffers == pytest.approx((whole.total - buffers) / 4, abs=3)


def test_a_moving_average_holds_the_trained_weights_once_more(folder):
    base, spec = folder("Bert"), ModelInput(path="unused", freeze={"layers": 1})
    plain, averaged = (
        least_memory(base, spec, Classification(["a"]), TrainingSpec(ema=ema)) for ema in (None, EmaSpec())
    )
    assert (plain.average, averaged.average) == (0, plain.gradients)
    assert averaged.total == plain.total + plain.gradients
    assert str(averaged).endswith(" moving average)")


def test_with_an_adapter_the_base_needs_no_gradients(folder):
    spec = ModelInput(path="unused", adapter={"lora": {}})
    need = least_memory(folder("Bert"), spec, Classification(["a", "b"]), TrainingSpec())
    assert (need.gradients, need.optimizer_state) == (0, 0)


def test_a_configuration_that_makes_no_model_is_named(folder):
    base = folder("Bert", hidden_act="none of these")
    with pytest.raises(NotFoundError, match="Bert cannot be loaded by AutoModelForSequenceClassification"):
        least_memory(base, ModelInput(path="unused"), Classification(["a", "b"]), TrainingSpec())


def test_a_gpu_that_is_too_small_is_refused_with_what_is_needed(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (0, 8 * GIBIBYTE))
    need = Need(2 * GIBIBYTE, 2 * GIBIBYTE, 4 * GIBIBYTE)
    check_fits(need, torch.device("cuda", 0))
    check_fits(Need(2**60), torch.device("cpu"))
    with pytest.raises(DeviceMemoryError) as caught:
        check_fits(Need(2 * GIBIBYTE, 2 * GIBIBYTE, 4 * GIBIBYTE + 1), torch.device("cuda", 0))
    assert caught.value.message.startswith(
        "the model cannot be trained on this GPU of 8.00 GiB: 8.00 GiB needed without activations (2.00 GiB parameters"
        " + 2.00 GiB gradients + 4.00 GiB optimizer state); freeze more of the model"
    )


def test_a_run_logs_its_need_before_the_weights_are_read(make_job):
    made = make_job()
    assert made.run_apart() == ExitCode.DONE, made.log
    before, _, after = made.log.partition("device memory: at least ")
    assert "parameters are trained" not in before
    assert "parameters are trained" in after
