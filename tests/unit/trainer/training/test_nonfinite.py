"""Numbers that are not finite: which rows and which layer, and that no weight ever takes them up."""

import json
import math
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest

from finetune_api.run import ExitCode
from finetune_trainer.data.files import FILE_ROWS
from finetune_trainer.optimization.spikes import Spikes
from finetune_trainer.reporting.recorder import Recorder
from unit.trainer.logs import records
from unit.trainer.runs import a_run, examples
from unit.trainer.tiny import reviews
from unit.trainer.training.test_crash import die, digest, do_at

SKIP = {"onNonFinite": {"action": "SkipStep", "limit": 5}}


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory, model_folder):
    """The tiny model with an embedding of the piece ##s that is finite, but overflows in the first norm."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("poisoned") / "model"
    shutil.copytree(model_folder, folder)
    tensors = load_file(folder / "model.safetensors")
    piece = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]["##s"]
    tensors["embeddings.word_embeddings.weight"][piece] = 3e38
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return {"path": str(folder)}


def rows_with(number, word="films"):
    """Rows of which one, counted from 1, has a text that no other has, with the piece ##s."""
    rows = reviews(64)
    rows[number - 1] = rows[number - 1] | {"text": f"the {word} was good"}
    return rows


def validated(made):
    """Validation rows in a file of their own, so that every row is trained on."""
    from unit.trainer.tiny import write_jsonl

    path = write_jsonl(made.folder / "validation.jsonl", reviews(16, start=900))
    return made.changed({"dataset": {"split": None, "validation": {"path": str(path)}}})


def test_a_row_that_overflows_is_named_with_the_layer_where_it_begins(make_job, poisoned):
    made = validated(make_job(rows=rows_with(17), model=poisoned))
    assert made.run() == ExitCode.DIVERGED
    message = made.report.message
    assert "the loss is nan on pvc://data/train.jsonl row 17; first NaN or infinity:" in message
    assert (
        "first NaN or infinity: the output of bert.embeddings.LayerNorm; no weights were changed" in message
    )


def test_a_loss_that_overflows_by_itself_is_told_from_the_layers(make_job):
    rows = reviews(64)
    rows[16] |= {"rating": 1e30}
    made = validated(
        make_job(rows=rows, objective={"regression": {}}, dataset={"columns": {"label": "rating"}})
    )
    assert made.run() == ExitCode.DIVERGED
    assert "the loss is inf on pvc://data/train.jsonl row 17" in made.report.message
    assert "first NaN or infinity: the loss of finite outputs" in made.report.message


def test_a_gradient_that_is_not_finite_is_named_though_the_loss_is(make_job):
    def overflow_backwards():
        import torch

        def hook(module, inputs, output):
            culprit = inputs[0].isclose(inputs[0]).all() and len(inputs[0]) and (output > 0).any()
            return Overflow.apply(output) if culprit else None

        class Overflow(torch.autograd.Function):
            @staticmethod
            def forward(context, values):
                return values.clone()

            @staticmethod
            def backward(context, gradient):
                return gradient * math.inf

        def watch(module, inputs, output):
            return hook(module, inputs, output) if type(module).__name__ == "BertPooler" else None

        torch.nn.modules.module.register_module_forward_hook(watch)

    made = validated(make_job())
    assert made.run_apart(overflow_backwards) == ExitCode.DIVERGED
    assert "the gradient's norm is" in made.report.message
    assert "first NaN or infinity: the gradient of bert.pooler.dense.bias" in made.report.message


def test_a_skipped_step_leaves_no_trace_in_the_weights_and_is_counted(make_job, poisoned):
    from safetensors.torch import load_file

    made = validated(make_job(rows=rows_with(17), model=poisoned, training=SKIP))
    assert made.run_apart() == ExitCode.DONE
    assert all(tensor.isfinite().all() for tensor in load_file(made.model_dir / "model.safetensors").values())
    assert made.report.message.endswith("; 2 steps had a NaN or infinite loss or gradient")
    assert "row 17; first NaN or infinity: the output of bert.embeddings.LayerNorm; step skipped" in made.log
    assert made.report.progress.step == 16


def test_more_skips_than_the_limit_fail_with_the_rows(make_job, poisoned):
    limit = {"onNonFinite": {"action": "SkipStep", "limit": 1}}
    made = validated(make_job(rows=rows_with(17), model=poisoned, training=limit))
    assert made.run() == ExitCode.DIVERGED
    assert "row 17" in made.report.message
    assert "this happened 2 times, and training.onNonFinite.limit is 1" in made.report.message


def test_skipped_steps_are_skipped_again_after_a_crash(make_job, poisoned):
    training = SKIP | {"checkpoint": {"every": {"steps": 3}}}
    whole = validated(make_job("whole", rows=rows_with(17), model=poisoned, training=training))
    assert whole.run_apart() == ExitCode.DONE
    made = validated(make_job(rows=rows_with(17), model=poisoned, training=training))
    assert made.run_apart(lambda: do_at("step", 12, die)) == -signal.SIGKILL
    assert made.changed({"job": {"attempt": 2}}).run_apart() == ExitCode.DONE
    assert digest(made) == digest(whole)
    assert made.report.message.endswith("; 2 steps had a NaN or infinite loss or gradient")


DIVERGING = {
    "optimizer": {"name": "SGD", "learningRate": 1.0},
    "schedule": {"name": "Constant", "warmup": {"steps": 0}},
    "gradientClipping": {"maxNorm": 0},
    "checkpoint": {"every": {"steps": 7}},
    "onNonFinite": {"action": "Rollback", "learningRateFactor": 1e-8},
}
REGRESSION = {"objective": {"regression": {}}, "dataset": {"columns": {"label": "rating"}}}


def large(rows):
    return [row | {"rating": 5e15 * row["rating"]} for row in rows]


def test_a_rollback_goes_on_from_the_newest_checkpoint_with_a_smaller_rate(make_job):
    from safetensors.torch import load_file

    made = validated(make_job(rows=large(reviews(64)), training=DIVERGING, **REGRESSION))
    assert made.run_apart() == ExitCode.DONE, made.log
    assert all(tensor.isfinite().all() for tensor in load_file(made.model_dir / "model.safetensors").values())
    assert "; back to step 0 with 1e-08 times the learning rate" in made.log
    entries = [json.loads(line) for line in (made.model_dir / "metrics.jsonl").read_text().splitlines()]
    steps = [entry["step"] for entry in entries if entry["event"] == "train"]
    assert steps == list(range(1, 17))
    assert entries[-2]["learningRate"] == pytest.approx(1e-8)


def test_a_crash_after_a_rollback_ends_with_the_same_bytes(make_job):
    whole = validated(make_job("whole", rows=large(reviews(64)), training=DIVERGING, **REGRESSION))
    assert whole.run_apart() == ExitCode.DONE
    made = validated(make_job(rows=large(reviews(64)), training=DIVERGING, **REGRESSION))
    assert made.run_apart(lambda: do_at("step", 12, die)) == -signal.SIGKILL
    assert made.changed({"job": {"attempt": 2}}).run_apart() == ExitCode.DONE
    assert digest(made) == digest(whole)


def test_a_row_that_no_rate_can_cure_fails_after_the_first_rollback(make_job, poisoned):
    training = {"onNonFinite": {"action": "Rollback"}}
    made = validated(make_job(rows=rows_with(17), model=poisoned, training=training))
    assert made.run() == ExitCode.DIVERGED
    assert "the weights of step 0 give the same on pvc://data/train.jsonl row 17" in made.report.message
    assert "a smaller rate does not help" in made.report.message


def explode(step, change, *, always=False):
    """Change the model's matrices once the optimizer has stepped so often, or whenever it has since."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    count = iter(range(1, 10**9))

    def note(optimizer, *_):
        number = next(count)
        if number == step or (always and number > step):
            change([parameter.data for parameter in optimizer.param_groups[0]["params"]])

    register_optimizer_step_post_hook(note)


def large_norm(matrices):
    """Finite outputs and gradients, whose norm is not."""
    assert matrices[-1].shape == (2, 32)
    matrices[-1].mul_(1e30)


def large_outputs(matrices):
    """Finite embeddings, which overflow in the first norm."""
    matrices[0].fill_(3e38)


def rolling_back(keep, every=2):
    return {
        "onNonFinite": {"action": "Rollback"},
        "checkpoint": {"every": {"steps": every}, "keep": keep},
        "evaluation": {"every": {"steps": 5}},
    }


def returns(made):
    """The steps that training went back to."""
    told = [json.loads(line) for line in made.log.splitlines() if line.startswith("{")]
    return [
        int(line["message"].partition("; back to step ")[2].split()[0])
        for line in told
        if line.get("event") == "rollback"
    ]


def sane_losses(made):
    entries = [json.loads(line) for line in (made.model_dir / "metrics.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in entries if entry["event"] == "train"]
    return len(losses) == 16 and max(losses) < 2


@pytest.mark.parametrize(
    ("change", "keep", "expected"),
    [(large_norm, 2, [6, 4]), (large_norm, 1, [6, 0]), (large_outputs, 2, [4]), (large_outputs, 1, [0])],
)
def test_a_checkpoint_whose_weights_exploded_but_are_finite_is_left_for_an_older_one(
    make_job, change, keep, expected
):
    """After step 6, so that the checkpoint of that step has it; the start is kept beside the newest."""
    made = validated(make_job(training=rolling_back(keep)))
    assert made.run_apart(lambda: explode(6, change)) == ExitCode.DONE, made.log
    assert returns(made) == expected
    assert sane_losses(made)


def test_weights_that_explode_again_and_again_end_the_job_at_the_limit(make_job):
    made = validated(make_job(training=rolling_back(2)))
    assert made.run_apart(lambda: explode(6, large_norm, always=True)) == ExitCode.DIVERGED
    assert "this happened 4 times, and training.onNonFinite.limit is 3" in made.report.message
    assert len(returns(made)) == 3


def test_a_crash_after_going_back_past_an_exploded_checkpoint_goes_on_from_the_older_one(make_job):
    made = validated(make_job(training=rolling_back(2)))

    def explode_then_die():
        explode(6, large_norm)
        do_at("step", 7, die)

    assert made.run_apart(explode_then_die) == -signal.SIGKILL
    assert returns(made) == [6, 4]
    assert made.changed({"job": {"attempt": 2}}).run_apart() == ExitCode.DONE
    assert made.report.from_step == 4
    assert sane_losses(made)


def test_a_loss_that_stands_out_is_told_from_usual_noise():
    spikes = Spikes()
    assert [spikes.note(1.0 + 0.1 * (n % 3)) for n in range(30)] == [None] * 30
    assert spikes.note(1.5) is None
    assert spikes.note(5.0) == pytest.approx(1.1)
    assert spikes.note(1.1) is None


@pytest.mark.parametrize("began", [None, 0.7], ids=["this process began so", "an earlier process began so"])
@pytest.mark.parametrize("loss", [0.0077, 0.03])
def test_a_loss_that_is_tiny_beside_that_of_the_start_is_no_spike(began, loss):
    spikes = Spikes()
    for _ in range(30):
        spikes.note(0.7 if began is None else 0.0018)
    for n in range(60):
        assert spikes.note(0.0018 + 0.0001 * (n % 3), began) is None
    assert spikes.note(loss, began) is None
    assert spikes.note(0.5, began) == pytest.approx(0.0019)


def test_a_regression_of_tiny_targets_has_spikes_too():
    spikes = Spikes()
    assert [spikes.note(1e-6 + 1e-8 * (n % 3)) for n in range(30)] == [None] * 30
    assert spikes.note(1e-5) == pytest.approx(1.01e-6)
    assert Spikes().note(1e9) is None


def test_a_step_whose_loss_stands_out_is_told_with_its_rows_and_counted():
    from prometheus_client import generate_latest

    from finetune_trainer.training.loop import train_step

    run, state = a_run(
        "regression", batchSize=4, microBatchSize=4, optimizer={"name": "SGD", "learningRate": 1e-6}
    )
    logged = records()
    for _ in range(20):
        assert train_step(run, state) is not None
    assert logged == []
    rows = run.batch(20)
    run.train.targets[rows] += 100
    run.feed.close()  # which has built these rows already
    assert train_step(run, state) is not None
    (spike,) = logged
    assert spike.getMessage().startswith("loss spike at step 21: ")
    assert spike.getMessage().endswith(
        f" is usual, on train.jsonl row {', '.join(map(str, sorted(rows + 1)))}"
    )
    assert (spike.levelname, spike.facts["event"]) == ("WARNING", "spike")
    assert b"finetune_train_loss_spikes_total 1.0" in generate_latest(run.recorder.metrics.registry)


def test_rows_of_several_files_are_named_by_their_files():
    from finetune_trainer.training.evaluator import name_rows

    lines = np.array([1, 3, FILE_ROWS + 1, FILE_ROWS + 2])
    data = replace(examples("classification", 4), lines=lines, files=("a.jsonl", "b.jsonl"))
    assert name_rows(data, np.array([3, 1, 0])) == "a.jsonl row 1, 3; b.jsonl row 2"
    many = replace(
        examples("classification", 12), lines=FILE_ROWS + np.arange(12), files=("a.jsonl", "b.jsonl")
    )
    assert name_rows(many, np.arange(12)) == "b.jsonl row 0, 1, 2, 3, 4, 5, 6, 7 and 4 more"


def test_counters_are_served():
    from prometheus_client import generate_latest

    served = generate_latest(Recorder().metrics.registry).decode()
    for name in ("skipped_steps", "rollbacks", "loss_spikes", "nonfinite"):
        assert f"finetune_train_{name}_total 0.0" in served
