"""Whole runs on frozen weights in 16 or 4 bits: what is reported, published and resumed, with every kind of loss."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune_api.run import ExitCode
from unit.trainer.architectures import build
from unit.trainer.optimization.test_optimizer import kill_before_step
from unit.trainer.preflight.test_preflight import check
from unit.trainer.test_sharding import divided, largest_difference
from unit.trainer.tiny import job, reviews
from unit.trainer.training.test_crash import die, digest, do_at
from unit.trainer.training.test_reference import answers

LORA = {"rank": 4, "alpha": 16}
TRAINING = {
    "epochs": 2,
    "optimizer": {"learningRate": 1e-2},
    "checkpoint": {"every": {"steps": 2}},
    "evaluation": {"baseline": True},
}
OBJECTIVES = {
    "causalLM": ({"causalLM": {}}, reviews(48)),
    "preference": ({"preference": {}}, answers(36)),
    "classification": ({"classification": {}}, reviews(48)),
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return build("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture
def make_job(tmp_path, llama):
    def make(name, weights, kind="causalLM", *, merge=True, **changes):
        objective, rows = OBJECTIVES[kind]
        model = {"adapter": {"lora": {**LORA, "merge": merge}}, "weights": weights}
        return job(
            tmp_path / name, llama, rows, objective=objective, training=TRAINING, model=model, **changes
        )

    return make


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_every_loss_falls_on_four_bits_and_the_merged_model_is_measured(make_job, kind):
    made = make_job(kind, "NF4", kind)
    assert made.run() == ExitCode.DONE
    report = made.report
    parts = {(part.format, part.trained): part for part in report.effective.weights}
    assert report.effective.checkpoint_weights == "Float32"
    assert parts["NF4", False].parameters == 2 * (4 * 32 * 32 - 2 * 32 * 16 + 3 * 32 * 64)
    assert parts["NF4", False].bytes_per_parameter < 1.5
    assert ("NF4", True) not in parts
    assert ("BFloat16", True) not in parts
    losses = [epoch.train_loss for epoch in report.epochs]
    assert losses[-1] < losses[0]
    card = (made.model_dir / "README.md").read_text()
    assert "merging the adapter into the checkpoint's weights, where it was trained on NF4" in card
    assert "The frozen weights were kept in NF4, for the metrics before training too." in card
    assert "quantization_config" not in (made.model_dir / "config.json").read_text()


def test_the_published_model_has_the_reported_loss(make_job):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = make_job("loss", "NF4")
    validation = made.folder / "validation.jsonl"
    rows = reviews(12, start=500)
    validation.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = made.changed({"dataset": {"split": None, "validation": {"path": str(validation)}}})
    assert given.run() == ExitCode.DONE
    model = AutoModelForCausalLM.from_pretrained(given.model_dir, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(given.model_dir)
    total, count = 0.0, 0
    for row in rows:
        ids = torch.tensor([[*tokenizer(row["text"])["input_ids"][:31], tokenizer.eos_token_id]])
        with torch.no_grad():
            scores = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        total -= float(scores.gather(1, ids[0, 1:, None]).sum())
        count += ids.shape[1] - 1
    assert given.report.model.metrics["eval_loss"] == pytest.approx(total / count, rel=1e-3)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_two_ranks_learn_on_four_bits_what_one_process_does(make_job, kind):
    training = {"optimizer": {"name": "SGD", "learningRate": 0.1}, "precision": "Float32"}
    alone, together = (
        make_job(name, "NF4", kind, merge=False).changed({"training": training}) for name in ("one", "two")
    )
    assert alone.run() == ExitCode.DONE
    assert together.run_ranks(2) == [ExitCode.DONE] * 2
    expected, found = (load_file(each.model_dir / "adapter_model.safetensors") for each in (alone, together))
    assert expected.keys() == found.keys()
    assert max(float(one.abs().max()) for name, one in expected.items() if "lora_B" in name) > 1e-4
    assert max(float((one - found[name]).abs().max()) for name, one in expected.items()) < 1e-6
    assert together.report_of(0).effective.weights == alone.report.effective.weights


@pytest.mark.parametrize(
    ("kind", "weights"), [("causalLM", "BFloat16"), *((kind, "NF4") for kind in OBJECTIVES)]
)
def test_two_ranks_with_shards_of_frozen_weights_learn_what_one_process_does(make_job, kind, weights):
    """Each has half of them; a rank that is killed resumes to the same bytes."""
    training = {"optimizer": {"name": "SGD", "learningRate": 0.1}, "precision": "Float32"}
    alone, together, killed = (
        make_job(name, weights, kind, merge=False).changed({"training": training})
        for name in ("one", "two", "killed")
    )
    together, killed = (each.changed({"training": {"sharding": "Full"}}) for each in (together, killed))
    assert alone.run() == ExitCode.DONE
    assert together.run_ranks(before=divided) == [ExitCode.DONE] * 2
    assert killed.run_ranks(before=lambda rank: kill_before_step(6) if rank else None)[1] < 0
    assert killed.run_ranks() == [ExitCode.DONE] * 2
    assert killed.report_of(0).from_step == 4
    expected, found, again = (
        load_file(each.model_dir / "adapter_model.safetensors") for each in (alone, together, killed)
    )
    assert max(float(one.abs().max()) for name, one in expected.items() if "lora_B" in name) > 1e-4
    assert largest_difference(expected, found) < 1e-6
    assert largest_difference(found, again) == 0
    assert together.report_of(0).effective.weights == alone.report.effective.weights


def test_an_adapter_that_is_published_alone_says_on_what_it_was_trained(make_job):
    made = make_job("alone", "NF4", merge=False)
    assert made.run() == ExitCode.DONE
    card = (made.model_dir / "README.md").read_text()
    assert "The metrics are those of the adapter on a base in NF4; on another they differ." in card
    assert 'load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True' in card
    assert json.loads((made.model_dir / "run.json").read_text())["config"]["model"]["weights"] == "NF4"


@pytest.mark.parametrize("weights", ["BFloat16", "NF4"])
def test_a_killed_run_goes_on_to_the_same_bytes_and_saves_only_what_is_trained(make_job, weights):
    whole, killed = make_job("whole", weights), make_job("killed", weights)
    assert whole.run_apart() == ExitCode.DONE
    assert killed.run_apart(lambda: do_at("step", 5, die)) < 0
    saved = next(killed.checkpoint_dir.rglob("model.safetensors"))
    from safetensors import safe_open

    with safe_open(saved, framework="pt") as tensors:
        names = list(tensors.keys())
    assert names
    assert all("lora_" in name for name in names)
    assert killed.run_apart() == ExitCode.DONE
    assert digest(killed) == digest(whole)


def test_the_format_of_the_weights_is_part_of_a_checkpoints_identity(make_job):
    made = make_job("other", "NF4")
    assert made.run_apart(lambda: do_at("step", 5, die)) < 0
    again = made.changed({"model": {"weights": "BFloat16"}})
    assert again.run_apart() == ExitCode.DONE
    assert again.report.from_step in (None, 0)


def test_a_quantized_base_is_refused(make_job, tmp_path):
    import shutil

    made = make_job("quantized", "Auto")
    base = tmp_path / "base"
    shutil.copytree(made.config["model"]["path"], base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    assert made.changed({"model": {"path": str(base)}}).run() == ExitCode.NOT_FOUND
    assert "set model.weights: NF4 to keep it in 4 bits" in made.report.message


@pytest.mark.parametrize("kind", ["causalLM", "classification"])
def test_preflight_counts_the_bytes_of_each_format_and_activations(make_job, kind):
    found = {}
    for weights in ("Float32", "BFloat16", "NF4"):
        code, report = check(make_job(weights, weights, kind))
        assert code == ExitCode.DONE, report.message
        found[weights] = report.preflight
    assert len({each.parameters for each in found.values()}) == 1
    assert len({each.trained_parameters for each in found.values()}) == 1
    sizes = [each.memory.weights for each in found.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3
    assert all(each.memory.activations for each in found.values())


def test_preflight_refuses_a_merged_model_that_does_not_fit(make_job):
    given = {"devices": {"gpus": 1}}
    need = check(make_job("one", "NF4", **given))[1].preflight
    whole = 4 * need.parameters - 8
    code, report = check(make_job("two", "NF4", **given), gpuMemory=whole)
    assert code == ExitCode.OUT_OF_MEMORY
    assert report.place.field == "model.adapter.lora.merge"


def test_a_head_that_the_checkpoint_lacks_is_trained_in_float32_and_is_a_caveat(tmp_path, llama):
    folder = shutil.copytree(llama, tmp_path / "headless")
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("lm_head.weight")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    objective, rows = OBJECTIVES["causalLM"]
    model = {"adapter": {"lora": {**LORA, "merge": True}}, "weights": "NF4"}
    made = job(tmp_path / "run", folder, rows, objective=objective, training=TRAINING, model=model)
    assert made.run() == ExitCode.DONE
    assert "new head: the base model has none for this objective" in made.report.message
    assert {part.format for part in made.report.effective.weights if part.trained} == {"Float32"}
