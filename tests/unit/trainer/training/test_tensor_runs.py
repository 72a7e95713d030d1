"""`tensorParallel: 2` as whole runs: the published model of one process, and exact resume."""

import signal

import pytest

from finetune_api.run import ExitCode
from unit.trainer.architectures import build
from unit.trainer.optimization.test_optimizer import kill_before_step
from unit.trainer.test_sharding import SGD, largest_difference, tensors

LORA = {"adapter": {"lora": {"rank": 4, "dropout": 0.2}}}
MODELS = {"all weights": {}, "LoRA": LORA, "merged LoRA": {"adapter": {"lora": {"rank": 4, "merge": True}}}}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A folder with a tiny Llama of two key-value heads."""
    return build("llama of two groups", tmp_path_factory.mktemp("llama"))


def planned(make_job, name, base, model):
    """A job of 12 steps of 8 rows in one process."""
    made = make_job(
        name,
        objective={"causalLM": {}},
        dataset={"columns": {}},
        training={
            "microBatchSize": 8,
            "optimizer": SGD,
            "checkpoint": {"every": {"steps": 5}},
            "schedule": {"name": "Constant", "warmup": {"steps": 0}},
        },
    )
    return made.changed({"model": {"path": str(base), **model}})


def over(job, ranks, **training):
    """On several ranks, two of which compute each row together."""
    changes = {"microBatchSize": 16 // ranks, "tensorParallel": 2, **training}
    return job.changed({"training": changes, "devices": {"gpus": ranks, "simulated": True}})


@pytest.mark.parametrize("model", MODELS)
def test_a_tensor_group_publishes_the_model_of_one_process(make_job, llama, model):
    """Dropout's masks too are those of one process."""
    alone = planned(make_job, "alone", llama, MODELS[model])
    together = over(planned(make_job, "together", llama, MODELS[model]), 2)
    assert alone.run_apart() == ExitCode.DONE, alone.log
    assert together.run_ranks() == [ExitCode.DONE] * 2, together.report_of(0).message + together.log
    assert "layers are divided over 2 GPUs" in together.log
    assert largest_difference(tensors(alone), tensors(together)) < 1e-6
    assert together.report_of(0).model.metrics == pytest.approx(alone.report.model.metrics, abs=1e-5)
    if model == "all weights":
        assert loss_of(alone) == pytest.approx(loss_of(together), abs=1e-6)


def loss_of(made):
    """Of a text, by the published folder in plain transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(made.model_dir).eval()
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        return model(input_ids=ids, labels=ids).loss.item()


@pytest.mark.parametrize("model", ["all weights", "LoRA"])
def test_tensor_groups_go_on_to_the_same_bytes_after_a_rank_was_killed(make_job, llama, model):
    """Two groups over which the model is sharded as well."""
    undisturbed = over(planned(make_job, "undisturbed", llama, MODELS[model]), 4, sharding="Full")
    killed = over(planned(make_job, "killed", llama, MODELS[model]), 4, sharding="Full")
    assert undisturbed.run_ranks(4) == [ExitCode.DONE] * 4, undisturbed.log
    codes = killed.run_ranks(4, before=lambda rank: kill_before_step(8) if rank == 3 else None)
    assert codes == [*[ExitCode.PEER_LOST] * 3, -signal.SIGKILL], killed.log
    assert killed.run_ranks(4) == [ExitCode.DONE] * 4, killed.log
    assert killed.report_of(0).from_step == 5
    assert largest_difference(tensors(undisturbed), tensors(killed)) == 0


def test_ranks_that_tensor_groups_leave_over_are_refused(make_job, llama):
    made = planned(make_job, "three", llama, {}).changed(
        {"training": {"tensorParallel": 2}, "devices": {"gpus": 3, "simulated": True}}
    )
    assert made.run_ranks(3) == [ExitCode.CONFIGURATION] * 3, made.log
    message = made.report_of(0).message
    assert message.startswith("training.tensorParallel is 2, which does not divide the 3 processes")
