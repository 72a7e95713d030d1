"""Heads of one's own: pooling, batch normalisation over ranks too, and a folder that brings its loader."""

import pytest

from finetune_api.run import ExitCode
from unit.trainer.optimization.test_optimizer import kill_before_step
from unit.trainer.plain import run_plain
from unit.trainer.runs import on_ranks
from unit.trainer.tiny import reviews

HEAD = {"hiddenSizes": [16, 8], "batchNorm": True, "dropout": 0.1}


def pooled(how):
    """Two rows of three tokens with one feature; the second is padded on both sides."""
    import torch

    from finetune_trainer.shipped.custom_head import pool

    hidden = torch.tensor([[[1.0], [5.0], [3.0]], [[9.0], [-2.0], [7.0]]])
    mask = torch.tensor([[1, 1, 1], [0, 1, 0]])
    return pool(hidden, mask, how).flatten().tolist()


@pytest.mark.parametrize(
    ("how", "expected"),
    [("Mean", [3.0, -2.0]), ("Max", [5.0, -2.0]), ("First", [1.0, -2.0]), ("Last", [3.0, -2.0])],
)
def test_pooling_leaves_padding_out(how, expected):
    assert pooled(how) == expected


def norms(seed=0):
    import torch

    from finetune_trainer.shipped.custom_head import BatchNorm

    torch.manual_seed(seed)
    ours, theirs = BatchNorm(4), torch.nn.BatchNorm1d(4)
    for module in (ours, theirs):
        torch.nn.init.constant_(module.weight, 1.5)
    return ours, theirs, torch.randn(6, 4) * 3 + 1


def test_batch_normalisation_is_torchs_in_training_and_in_evaluation():
    import torch

    ours, theirs, rows = norms()
    for _ in range(3):
        assert torch.equal(ours(rows), theirs(rows))
    assert torch.equal(ours.running_var, theirs.running_var)
    ours.eval(), theirs.eval()
    assert torch.equal(ours(rows[:1]), theirs(rows[:1]))


def test_one_row_alone_is_normalised_by_the_running_statistics():
    import torch

    ours, _, rows = norms()
    ours(rows)
    before = ours.running_mean.clone()
    alone = ours(rows[:1])
    assert torch.equal(ours.running_mean, before)
    assert torch.equal(alone, ours.eval()(rows[:1]))


def test_a_pass_without_gradients_leaves_the_running_statistics_as_they_are():
    import torch

    ours, _, rows = norms()
    with torch.no_grad():
        ours(rows)
    assert ours.num_batches_tracked == 0


def test_ranks_normalise_over_all_their_rows_together(tmp_path):
    import torch

    def body(ranks):
        from finetune_trainer.shipped.custom_head import BatchNorm

        torch.manual_seed(0)
        norm, rows, factors = BatchNorm(4), torch.randn(7, 4) * 3 + 1, torch.randn(7, 4)
        part = slice(0, 5) if ranks.is_main else slice(5, 7)
        mine = rows[part].clone().requires_grad_()
        (norm(mine) * factors[part]).sum().backward()
        return mine.grad, norm.weight.grad, norm.running_mean, norm.running_var

    first, second = on_ranks(2, body, tmp_path)

    torch.manual_seed(0)
    one, rows, factors = torch.nn.BatchNorm1d(4), torch.randn(7, 4) * 3 + 1, torch.randn(7, 4)
    rows.requires_grad_()
    (one(rows) * factors).sum().backward()
    assert torch.allclose(torch.cat([first[0], second[0]]), rows.grad, atol=1e-6)
    assert torch.allclose(first[1] + second[1], one.weight.grad, atol=1e-5)
    for found in (first, second):
        assert torch.allclose(found[2], one.running_mean, atol=1e-6)
        assert torch.allclose(found[3], one.running_var, atol=1e-5)


def a_normalised_run(ranks=None, size=8, count=16, **training):
    """A run of generated rows on an encoder with batch normalisation in its head, every step one batch of 8."""
    from dataclasses import replace

    import torch

    from finetune_trainer.optimization.optimizer import build_optimizer
    from finetune_trainer.shipped.custom_head import HeadedModel
    from unit.trainer.runs import a_run

    sgd = {"name": "SGD", "learningRate": 0.1}
    ranks = ranks and replace(ranks, sync_batch_norm=True)
    training |= {"maxSteps": 3, "microBatchSize": size, "optimizer": sgd}
    run, state = a_run("classification", ranks, count=count, **training)
    description = {"hidden_sizes": [6], "batch_norm": True, "dropout": 0.0, "pooling": "Mean", "outputs": 3}
    torch.manual_seed(11)  # a_run gave every rank a seed of its own
    model = HeadedModel(run.task.model.base_model, description)
    run.task = replace(run.task, model=model.train())
    run.evaluator = replace(run.evaluator, task=run.task)
    run.optimizer = build_optimizer(model, run.training.optimizer)
    return run, state


def trained_with_ranks(ranks=None, size=8, count=16):
    from finetune_trainer.training.loop import train

    run, state = a_normalised_run(ranks, size, count)
    train(run, state)
    return {name: value.clone().numpy() for name, value in run.task.model.state_dict().items()}


def test_a_step_that_is_not_finite_leaves_no_trace_in_running_statistics_that_were_looked_for_once():
    import torch

    from finetune_trainer.training.loop import train_step

    def overflow(module, inputs, output):
        output.logits = output.logits * torch.inf

    run, state = a_normalised_run(onNonFinite={"action": "SkipStep"})
    walks, modules = [], run.task.model.modules
    object.__setattr__(run.task.model, "modules", lambda: walks.append(1) or modules())
    (norm,) = (module for module in modules() if hasattr(module, "running_mean"))
    train_step(run, state)
    assert len(walks) == 1
    after_one = norm.running_mean.clone()
    assert after_one.any()
    run.task.model.register_forward_hook(overflow)
    assert train_step(run, state) is None
    assert torch.equal(norm.running_mean, after_one)
    assert norm.num_batches_tracked == 1


def test_out_of_memory_half_way_leaves_no_trace_in_the_running_statistics():
    """The first micro-batch of 4 has moved them when the second one does not fit."""
    import torch

    from finetune_trainer.training.loop import train_step
    from unit.trainer.test_distributed import full_at

    (run, state), (halved, other) = a_normalised_run(size=4), a_normalised_run(size=2)
    full_at(run, 2)
    train_step(run, state)
    train_step(halved, other)
    assert state.micro_batch_size == 2
    expected = halved.task.model.state_dict()
    for name, value in run.task.model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_training_on_two_ranks_is_that_of_one_process_where_they_normalise_the_same_rows(tmp_path):
    from unit.trainer.runs import largest_difference

    expected = trained_with_ranks()
    for found in on_ranks(2, lambda ranks: trained_with_ranks(ranks, 4), tmp_path):
        assert largest_difference(expected, found) < 1e-5


def test_ranks_without_a_row_of_their_own_leave_no_trace_in_the_normalisation(tmp_path):
    """9 rows: of the batch of 8 each of four ranks has 2, of the last one three have none and compute it too."""
    from unit.trainer.runs import largest_difference

    expected = trained_with_ranks(count=9)
    for found in on_ranks(4, lambda ranks: trained_with_ranks(ranks, 2, count=9), tmp_path):
        assert largest_difference(expected, found) < 1e-5


def test_out_of_memory_on_one_of_several_normalising_ranks_ends_all(tmp_path):
    from finetune_trainer.errors import DeviceMemoryError, PeerLostError
    from unit.trainer.test_distributed import full_at

    def body(ranks):
        from finetune_trainer.training.loop import train

        run, state = a_normalised_run(ranks, 4)
        if ranks.rank == 1:
            full_at(run, 2)
        train(run, state)

    lost, full = on_ranks(2, body, tmp_path)
    assert isinstance(lost, PeerLostError)
    assert isinstance(full, DeviceMemoryError)
    assert "model.head.batchNorm" in full.message


def headed(make_job, name="job", **changes):
    plan = {"epochs": 4, "checkpoint": {"every": {"steps": 5}}}
    return make_job(name, model={"head": HEAD}, training=plan | changes)


LOADED = """
import json, sys
import torch
from custom_head import load
model, tokenizer = load(".")
inputs = tokenizer(json.loads(sys.argv[1]), padding=True, truncation=True, max_length=32, return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs).logits
print(json.dumps([[model.config.id2label[i] for i in logits.argmax(-1).tolist()], logits.tolist()]))
"""


def test_a_folder_with_an_own_head_loads_by_the_file_in_it_and_scores_as_the_report_says(make_job):
    import json

    from unit.trainer.training.test_run import with_test_rows

    made = with_test_rows(make_job, model={"head": HEAD}, training={"epochs": 8})
    assert made.run() == ExitCode.DONE
    assert made.report.model.format == "custom-head"
    rows = reviews(40, start=500)
    texts = json.dumps([row["text"] for row in rows])
    labels, logits = json.loads(run_plain(LOADED, made.model_dir, texts))
    hits = sum(label == row["label"] for label, row in zip(labels, rows, strict=True))
    metrics = made.report.model.metrics
    assert metrics["test_accuracy"] == pytest.approx(hits / len(rows))
    assert metrics["test_accuracy"] > 0.7
    losses = [loss_of(pair, row["label"]) for pair, row in zip(logits, rows, strict=True)]
    assert metrics["test_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert "from custom_head import load" in (made.model_dir / "README.md").read_text()


def loss_of(logits, label):
    import math

    return math.log(sum(map(math.exp, logits))) - logits[label == "pos"]


def test_a_killed_run_with_batch_normalisation_goes_on_to_the_same_bytes(make_job):
    undisturbed, killed = headed(make_job, "undisturbed"), headed(make_job, "killed")
    assert undisturbed.run_apart() == ExitCode.DONE
    assert killed.run_apart(lambda: kill_before_step(13)) == -9
    assert killed.run_apart() == ExitCode.DONE
    assert "resuming from the checkpoint of step 10" in killed.log
    for name in ("custom_head.safetensors", "model.safetensors"):
        assert (undisturbed.model_dir / name).read_bytes() == (killed.model_dir / name).read_bytes()
    assert killed.report.epochs[-1].eval_loss == undisturbed.report.epochs[-1].eval_loss


def test_micro_batches_matter_with_batch_normalisation_and_do_not_without(make_job):
    def losses(batch_norm):
        for size in (8, 4):
            head = {"hiddenSizes": [16], "batchNorm": batch_norm}
            training = {
                "epochs": 1,
                "microBatchSize": size,
                "optimizer": {"name": "SGD", "learningRate": 0.1},
            }
            made = make_job(f"{batch_norm}{size}", model={"head": head, "dropout": 0.0}, training=training)
            assert made.run() == ExitCode.DONE
            yield made.report.epochs[-1].eval_loss

    with_norm, without = list(losses(True)), list(losses(False))
    assert abs(with_norm[0] - with_norm[1]) > 1e-4
    assert without[0] == pytest.approx(without[1], abs=1e-5)


def test_a_last_batch_of_one_row_trains(make_job):
    rows = reviews(68)  # 51 for training: the last micro-batch of an epoch has one row
    made = make_job(
        rows=rows, model={"head": HEAD}, training={"epochs": 1, "batchSize": 10, "microBatchSize": 10}
    )
    assert made.run() == ExitCode.DONE
    assert made.report.resolved.train.rows % 10 == 1


def test_a_head_and_an_adapter_give_one_merged_model(make_job):
    made = make_job(model={"head": HEAD, "adapter": {"lora": {"merge": True}}}, training={"epochs": 1})
    assert made.run() == ExitCode.DONE
    assert made.report.model.format == "custom-head"
    assert not (made.model_dir / "adapter_config.json").exists()


def test_a_head_is_refused_where_every_token_has_an_output(make_job):
    made = make_job(model={"head": {}}, objective={"causalLM": {}})
    assert made.run() == ExitCode.CONFIGURATION
    assert made.report.message.startswith("model.head makes one vector of a text")
