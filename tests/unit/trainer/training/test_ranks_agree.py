"""Whole runs of two processes, of which one computes what is not finite: one decision for both; and the looks."""

import json

import pytest

from finetune_api.run import ExitCode
from unit.trainer.test_sharding import largest_difference, sharded, tensors
from unit.trainer.training.test_debug import ALL, lines

WAYS = ["None", "Full"]
PLAN = {
    "checkpoint": {"every": {"steps": 2}},
    "schedule": {"name": "Constant", "warmup": {"steps": 0}},
    "optimizer": {"name": "SGD", "learningRate": 0.1},
}


def on_two(make_job, sharding, name="job", **training):
    """12 steps of 8 rows, half of them by each rank, in one forward pass."""
    made = sharded(make_job(name, training=PLAN | training, model={"dropout": 0.0}))
    return made.changed({"training": {"sharding": sharding}})


def broken_from(step, *, for_ever):
    """Have rank 1 alone compute NaN in the forward pass of a step, or in every one from there on."""

    def before(rank):
        import torch

        passes = iter(range(1, 10**9))

        def spoil(module, inputs, output):
            if not hasattr(output, "logits"):
                return
            number = next(passes) if module.training else 0
            if number == step or (for_ever and (number > step or begun)):
                begun.append(number)
                output.logits = output.logits * torch.nan

        begun = []
        if rank == 1:
            torch.nn.modules.module.register_module_forward_hook(spoil)

    return before


def agreed(made):
    """That both ranks came to the same end; what they did about numbers that were not finite."""
    first, second = made.report_of(0), made.report_of(1)
    assert first.exit_code == second.exit_code
    assert [epoch.eval_loss for epoch in first.epochs] == [epoch.eval_loss for epoch in second.epochs]
    assert first.latest == second.latest
    told = [json.loads(line) for line in made.log.splitlines() if line.startswith("{")]
    return [line["message"] for line in told if line.get("event") in ("skip", "rollback")]


@pytest.mark.parametrize("sharding", WAYS)
@pytest.mark.parametrize(
    ("action", "consequence"),
    [("SkipStep", "step skipped"), ("Rollback", "back to step 4 with 0.5 times the learning rate")],
)
def test_a_nan_on_one_rank_alone_is_borne_by_both_alike(make_job, sharding, action, consequence):
    made = on_two(make_job, sharding, onNonFinite={"action": action})
    codes = made.run_ranks(before=broken_from(5, for_ever=False))
    assert codes == [ExitCode.DONE] * 2, made.log
    (told,) = agreed(made)
    assert told.startswith("NaN or infinity at step 5: the loss is nan on pvc://data/train.jsonl row ")
    assert told.endswith(f"; {consequence}")
    assert all(value.isfinite().all() for value in tensors(made).values())
    assert made.report_of(1).message.endswith("; 1 step had a NaN or infinite loss or gradient")


@pytest.mark.parametrize("sharding", WAYS)
@pytest.mark.parametrize(
    ("action", "why"),
    [("Rollback", "the weights of step 0 give the same"), ("SkipStep", "training.onNonFinite.limit is 3")],
)
def test_a_rank_that_computes_wrongly_for_ever_ends_both_as_diverged(make_job, sharding, action, why):
    made = on_two(make_job, sharding, onNonFinite={"action": action}, evaluation={"every": {"steps": 50}})
    codes = made.run_ranks(before=broken_from(5, for_ever=True))
    assert codes == [ExitCode.DIVERGED] * 2, made.log
    agreed(made)
    for rank in range(2):
        assert why in made.report_of(rank).message
        assert "first NaN or infinity: the output of " in made.report_of(rank).message


@pytest.mark.parametrize("sharding", WAYS)
def test_looks_at_a_run_of_several_ranks_lie_in_the_folder_and_change_no_weight(make_job, sharding):
    plain, made = on_two(make_job, sharding, "plain"), on_two(make_job, sharding, debug=ALL)
    assert plain.run_ranks() == [ExitCode.DONE] * 2, plain.log
    assert made.run_ranks() == [ExitCode.DONE] * 2, made.log
    statistics = lines(made.model_dir / "statistics.jsonl")
    assert sorted({entry["step"] for entry in statistics}) == [4, 8, 12]
    assert {"bert.encoder.layer.1.output.dense", "classifier"} <= {entry["layer"] for entry in statistics}
    assert all(entry["gradients"]["max"] > 0 for entry in statistics if entry["layer"] == "classifier")
    trace = json.loads((made.model_dir / "trace.json").read_text())
    assert any("aten::" in event.get("name", "") for event in trace["traceEvents"])
    assert (made.model_dir / "tensorboard").is_dir()
    assert largest_difference(tensors(plain), tensors(made)) == 0


@pytest.mark.parametrize("sharding", WAYS)
def test_one_batch_is_learned_by_heart_by_several_ranks(make_job, sharding):
    steps = {"epochs": None, "maxSteps": 40, "optimizer": {"learningRate": 5e-3}}
    made = on_two(make_job, sharding, debug={"overfitOneBatch": True}, **steps)
    assert made.run_ranks() == [ExitCode.DONE] * 2, made.log
    assert "; the one batch was learned: its loss went from 0.69" in made.report_of(0).message
