"""`sharding: Full` on two ranks, as whole runs: the model of one process, whatever is trained, and exact resume."""

import shutil
import signal

import pytest

from finetune_api.run import ExitCode
from unit.trainer.optimization.test_optimizer import kill_before_step
from unit.trainer.tiny import reviews, write_jsonl

SGD = {"name": "SGD", "learningRate": 0.1, "weightDecay": 0.0}
NORMED = {"hiddenSizes": [16], "batchNorm": True, "dropout": 0.0}
PLAIN = {"hiddenSizes": [16], "dropout": 0.0}
MERGED = {"lora": {"rank": 4, "dropout": 0.0, "merge": True}}
PLANS = {
    "LoRA": {"model": {"adapter": {"lora": {"rank": 4, "dropout": 0.0}}}},
    "an own head": {"model": {"head": PLAIN}},
    "an own head with batch normalisation": {"model": {"head": NORMED}},
    "an own head and LoRA": {"model": {"head": PLAIN, "adapter": MERGED}},
    "batch normalisation and LoRA": {"model": {"head": NORMED, "adapter": MERGED}},
    "activation checkpointing": {"training": {"activationCheckpointing": True}},
    "gradual unfreezing": {
        "model": {"freeze": {"embeddings": True, "layers": 2, "unfreezeEvery": {"steps": 3}}}
    },
}


def planned(make_job, name, plan):
    """A job of 12 steps of 8 rows, half of them by each of two ranks."""
    made = make_job(
        name,
        training={
            "microBatchSize": 8,
            "optimizer": SGD,
            "checkpoint": {"every": {"steps": 5}},
            "schedule": {"name": "Constant", "warmup": {"steps": 0}},
        },
        model={"dropout": 0.0},
    )
    return made.changed(PLANS[plan])


def sharded(job):
    """On two ranks, with the model divided between them."""
    changes = {"microBatchSize": 4, "sharding": "Full"}
    return job.changed({"training": changes, "devices": {"gpus": 2, "simulated": True}})


def divided(_rank=0):
    """Have the run fail unless every parameter that an optimizer steps on is divided."""
    from torch.distributed.tensor import DTensor
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    def look(optimizer, *_):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        assert all(isinstance(parameter, DTensor) for parameter in parameters)

    register_optimizer_step_pre_hook(look)


def tensors(job):
    """All that is published, by file and name."""
    from safetensors.torch import load_file

    return {
        f"{path.name}/{name}": value
        for path in job.model_dir.glob("*.safetensors")
        for name, value in load_file(path).items()
    }


def largest_difference(left, right):
    """Between two sets of tensors."""
    assert left.keys() == right.keys()
    return max((left[name] - right[name]).abs().max().item() for name in left)


@pytest.mark.parametrize("plan", PLANS)
def test_a_divided_model_is_trained_to_that_of_one_process(make_job, plan):
    alone, together = planned(make_job, "alone", plan), sharded(planned(make_job, "together", plan))
    assert alone.run_apart() == ExitCode.DONE, alone.log
    assert together.run_ranks(before=divided) == [ExitCode.DONE] * 2, together.log
    bound = 1e-5 if "batch normalisation" in plan else 1e-6
    assert largest_difference(tensors(alone), tensors(together)) < bound
    reported = alone.report.model.metrics
    assert together.report_of(0).model.metrics == pytest.approx(reported, abs=1e-5)


def computes_bfloat16(_rank):
    """Let torch take this CPU for one with instructions for bfloat16; without them it computes the same, slowly."""
    import torch

    torch.cpu.get_capabilities = lambda: {"avx512_bf16": True}
    divided()


def stop_at_step(number):
    """Ask this process to stop while it takes that step."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    steps = iter(range(1, number + 1))
    register_optimizer_step_post_hook(
        lambda *_: signal.raise_signal(signal.SIGTERM) if next(steps, 0) == number else None
    )


def distance(left, right):
    """Euclidean, of all tensors together."""
    return sum((left[name] - right[name]).square().sum().item() for name in left) ** 0.5


@pytest.mark.parametrize("plan", ["LoRA", "an own head with batch normalisation"])
def test_a_divided_model_learns_in_bfloat16_what_it_does_in_float32(make_job, plan):
    """But for the rounding of bfloat16, a tenth of the way at most here; the weights themselves stay float32."""
    start = planned(make_job, "start", plan)
    start = start.changed({"training": {"optimizer": {"learningRate": 1e-12}}})
    alone, together = planned(make_job, "alone", plan), sharded(planned(make_job, "together", plan))
    together = together.changed({"training": {"precision": "BFloat16"}})
    assert start.run_apart() == alone.run_apart() == ExitCode.DONE, alone.log
    assert together.run_ranks(before=computes_bfloat16) == [ExitCode.DONE] * 2, together.log
    assert together.report_of(0).effective.precision == "BFloat16"
    before, expected, found = tensors(start), tensors(alone), tensors(together)
    assert before.keys() == expected.keys() == found.keys()
    assert {str(value.dtype) for value in found.values() if value.is_floating_point()} == {"torch.float32"}
    way = distance(before, expected)
    assert 0 < distance(expected, found) < 0.2 * way


def error_of(made, rows):
    """RMSE of the published model, as plain transformers computes it."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(made.model_dir).eval()
    tokenizer = AutoTokenizer.from_pretrained(made.model_dir)
    inputs = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    with torch.no_grad():
        errors = model(**inputs).logits[:, 0] - torch.tensor([row["rating"] for row in rows])
    return errors.square().mean().sqrt().item()


@pytest.mark.parametrize("divided", [False, True])
def test_numbers_far_from_0_are_told_in_bfloat16_as_plain_transformers_predicts_them(
    make_job, monkeypatch, tmp_path, model_folder, divided
):
    """In bfloat16 they would move in steps of 8; the last layer is computed in float32."""
    from transformers import BertForSequenceClassification

    from finetune_trainer.process import devices

    base = shutil.copytree(model_folder, tmp_path / "near 2003")
    model = BertForSequenceClassification.from_pretrained(base, num_labels=1)
    model.classifier.bias.data.fill_(2003)
    model.save_pretrained(base)
    rows = [row | {"rating": 2003 + row["rating"]} for row in reviews(48)]
    made = make_job(rows=rows, objective={"regression": {}}, dataset={"columns": {"label": "rating"}})
    test = write_jsonl(made.folder / "test.jsonl", rows[:20])
    training = {"epochs": 1, "optimizer": {"learningRate": 1e-9}, "precision": "BFloat16"}
    made = made.changed(
        {"dataset": {"test": {"path": str(test)}}, "training": training, "model": {"path": str(base)}}
    )
    if divided:
        made = sharded(made)
        assert made.run_ranks(before=computes_bfloat16) == [ExitCode.DONE] * 2, made.log
    else:
        monkeypatch.setattr(devices, "_computes_bfloat16", lambda _: True)
        assert made.run() == ExitCode.DONE
    report = made.report_of(0) if divided else made.report
    assert report.effective.precision == "BFloat16"
    assert report.model.metrics["test_rmse"] == pytest.approx(error_of(made, rows[:20]), rel=1e-2)


@pytest.mark.parametrize("precision", ["Float32", "BFloat16"])
def test_a_divided_model_that_was_stopped_where_an_evaluation_is_due_goes_on(make_job, precision):
    """The first pass of the process that goes on is then the evaluation's."""
    made = sharded(planned(make_job, "stopped", "an own head"))
    made = made.changed({"training": {"precision": precision, "evaluation": {"every": {"steps": 3}}}})
    codes = made.run_ranks(before=lambda rank: computes_bfloat16(rank) or (not rank and stop_at_step(6)))
    assert codes == [ExitCode.INTERRUPTED] * 2, made.log
    assert made.report_of(0).latest.step == 6
    assert [one.step for one in made.report_of(0).epochs] == [3]
    assert made.run_ranks(before=computes_bfloat16) == [ExitCode.DONE] * 2, made.log
    assert [one.step for one in made.report_of(0).epochs] == [3, 6, 9, 12]


@pytest.mark.parametrize("plan", ["batch normalisation and LoRA", "gradual unfreezing"])
def test_a_divided_model_goes_on_to_the_same_bytes_after_a_rank_was_killed(make_job, plan):
    undisturbed = sharded(planned(make_job, "undisturbed", plan))
    killed = sharded(planned(make_job, "killed", plan))
    assert undisturbed.run_ranks() == [ExitCode.DONE] * 2, undisturbed.log
    codes = killed.run_ranks(before=lambda rank: kill_before_step(8) if rank else None)
    assert codes == [ExitCode.PEER_LOST, -signal.SIGKILL], killed.log
    assert killed.run_ranks(before=divided) == [ExitCode.DONE] * 2, killed.log
    assert killed.report_of(0).from_step == 5
    assert largest_difference(tensors(undisturbed), tensors(killed)) == 0
