"""The loop: one update whatever the micro-batches, clipping, memory, numbers that are not finite."""

import itertools
import json
import resource
import time

import numpy as np
import pytest

from finetune_api.run import Devices, ModelInput
from finetune_api.training import GradientClippingSpec, OptimizerSpec, Precision, TrainingSpec
from finetune_trainer.data.rows import Row
from finetune_trainer.data.sources import Source
from finetune_trainer.errors import DeviceMemoryError, DivergedError, StoppedError
from finetune_trainer.objectives.classification import Classification
from finetune_trainer.objectives.regression import Regression
from finetune_trainer.process.memory import is_out_of_memory, memory_errors
from finetune_trainer.process.stop import Stop
from finetune_trainer.reporting.recorder import Recorder
from finetune_trainer.training.state import TrainState
from unit.trainer.logs import messages
from unit.trainer.runs import Checkpoints
from unit.trainer.tiny import reviews

OBJECTIVES = {
    "classification": Classification(["neg", "pos"], label_smoothing=0.1, class_weights=(0.7, 1.6)),
    "regression": Regression(),
}


def source(objective, count=24):
    from finetune_api.status import ResolvedData

    key = "label" if objective == "classification" else "rating"
    rows = [Row(n, r["text"], None, r[key], None) for n, r in enumerate(reviews(count), start=1)]
    return Source("dataset.train", "train.jsonl", rows, ResolvedData())


def a_run(model_folder, objective="classification", dropout=0.0, count=24, **training):
    """A run on the tiny model, ready to step, with its state and log."""
    from accelerate.utils import set_seed

    from finetune_trainer.data.tokens import tokenize
    from finetune_trainer.distributed import Ranks
    from finetune_trainer.models.folder import check_folder
    from finetune_trainer.models.load import load_model
    from finetune_trainer.models.tokenizer import load_tokenizer
    from finetune_trainer.optimization.optimizer import build_optimizer
    from finetune_trainer.process.devices import choose_compute
    from finetune_trainer.training.context import Run
    from finetune_trainer.training.evaluator import Evaluator
    from finetune_trainer.training.task import Task

    spec = TrainingSpec.model_validate({"batchSize": 8, "microBatchSize": 8, **training}).resolved(objective)
    folder = check_folder(ModelInput(path=str(model_folder)))
    set_seed(1)
    tokenizer = load_tokenizer(folder, "right")
    learned, ranks, stop = OBJECTIVES[objective], Ranks(), Stop()
    model = load_model(folder, ModelInput(path=str(model_folder), dropout=dropout), learned, 0).model.train()
    learned.prepare(model)
    log = messages()
    task = Task(model, learned, choose_compute(Devices(), Precision.FLOAT32, 1), 0)
    examples = tokenize(source(objective, count), learned, tokenizer, 32)
    saved = []
    run = Run(
        task=task,
        evaluator=Evaluator(task, ranks, stop),
        ranks=ranks,
        stop=stop,
        optimizer=build_optimizer(model, spec.optimizer),
        training=spec,
        train=examples,
        validation=examples,
        checkpoints=Checkpoints(lambda state: saved.append(state.step)),
        recorder=Recorder(),
    )
    return run, TrainState(micro_batch_size=spec.micro_batch_size), log, saved


def weights(run):
    return {name: value.detach().clone() for name, value in run.task.model.named_parameters()}


def largest_difference(left, right):
    return max((left[name] - right[name]).abs().max().item() for name in left)


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_gradients_are_those_of_the_mean_over_the_batch_whatever_the_micro_batch(model_folder, objective):
    import torch

    from finetune_trainer.data.collation import collate
    from finetune_trainer.training.loop import _gradients

    run, *_ = a_run(model_folder, objective)
    batch = run.batch(0)
    inputs, targets = collate(run.train, batch, 0)
    logits = run.task.model(**inputs).logits
    if objective == "regression":
        reference = torch.nn.MSELoss()(logits.squeeze(-1), targets)
    else:
        reference = torch.nn.CrossEntropyLoss(torch.tensor([0.7, 1.6]), label_smoothing=0.1)(logits, targets)
    reference.backward()
    expected = {n: p.grad.clone() for n, p in run.task.model.named_parameters() if p.grad is not None}
    for size in (8, 5, 3, 1):
        passes = _gradients(run, 0, size, [])
        assert passes.loss_sum / passes.weight == pytest.approx(reference.item(), abs=1e-6)
        named = run.task.model.named_parameters()
        got = {n: p.grad * passes.scale for n, p in named if p.grad is not None}
        assert largest_difference(expected, got) < 1e-6


def test_the_last_smaller_batch_counts_its_rows_like_all_others(model_folder):
    run, *_ = a_run(model_folder, count=20)
    sizes = sorted(len(run.batch(step)) for step in range(run.steps_per_epoch))
    assert sizes == [4, 8, 8]
    assert run.total_steps == 9


@pytest.mark.parametrize("bound", [1e-3, 0.5, 1e6, 0.0])
def test_clipping_by_norm_is_torchs(bound):
    import torch

    from finetune_trainer.optimization.clipping import scale_and_clip

    parameters, copies = two_sets_of_parameters()
    before = torch.nn.utils.get_total_norm([p.grad for p in parameters]).item()
    norms = scale_and_clip(parameters, 1.0, GradientClippingSpec(max_norm=bound))
    assert norms.before == pytest.approx(before)
    assert norms.after == pytest.approx(torch.nn.utils.get_total_norm([p.grad for p in parameters]).item())
    assert norms.clipped == (0 < bound < before)
    if bound:
        torch.nn.utils.clip_grad_norm_(copies, bound)
    assert all(torch.equal(p.grad, c.grad) for p, c in zip(parameters, copies, strict=True))


@pytest.mark.parametrize(
    "spec", [GradientClippingSpec(max_norm=0.5), GradientClippingSpec(max_value=0.01), None]
)
def test_a_gradient_of_sums_is_clipped_as_that_of_the_mean(spec):
    import torch

    from finetune_trainer.optimization.clipping import scale_and_clip

    parameters, copies = two_sets_of_parameters()
    for copy in copies:
        copy.grad.mul_(1 / 32)
    norms = scale_and_clip(parameters, 1 / 32, spec), scale_and_clip(copies, 1.0, spec)
    assert norms[0].before == pytest.approx(norms[1].before, rel=1e-6)
    assert norms[0].after == pytest.approx(norms[1].after, rel=1e-6)
    assert norms[0].clipped == norms[1].clipped
    for parameter, copy in zip(parameters, copies, strict=True):
        assert torch.allclose(parameter.grad, copy.grad, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bound", [0.3, 1e3])
def test_clipping_by_value_is_torchs_and_the_norms_are_those_before_and_after(bound):
    import torch

    from finetune_trainer.optimization.clipping import scale_and_clip

    parameters, copies = two_sets_of_parameters()
    before = torch.nn.utils.get_total_norm([p.grad for p in parameters]).item()
    norms = scale_and_clip(parameters, 1.0, GradientClippingSpec(max_value=bound))
    torch.nn.utils.clip_grad_value_(copies, bound)
    after = torch.nn.utils.get_total_norm([p.grad for p in copies]).item()
    assert (norms.before, norms.after) == pytest.approx((before, after))
    assert norms.clipped == (bound == 0.3)
    assert all(torch.equal(p.grad, c.grad) for p, c in zip(parameters, copies, strict=True))


@pytest.mark.parametrize(
    ("clipping", "clipped"),
    [({"maxNorm": 1e-3}, 3), ({"maxValue": 1e-4}, 3), ({"maxNorm": 1e6}, 0), ({"maxValue": 1e6}, 0)],
)
def test_clipped_steps_are_counted_and_both_norms_are_told(model_folder, clipping, clipped):
    from finetune_trainer.training.loop import train

    run, state, *_ = a_run(model_folder, maxSteps=3, gradientClipping=clipping)
    train(run, state)
    sample, progress = run.recorder.metrics.registry.get_sample_value, run.recorder.report.progress
    assert sample("finetune_train_clipped_steps_total") == clipped
    assert sample("finetune_train_grad_norm") == pytest.approx(progress.grad_norm, rel=1e-5)
    assert sample("finetune_train_grad_norm_clipped") == pytest.approx(progress.grad_norm_clipped, rel=1e-5)
    assert (progress.grad_norm_clipped < 0.9 * progress.grad_norm) == (clipped > 0)
    if "maxNorm" in clipping and clipped:
        assert progress.grad_norm_clipped == pytest.approx(1e-3, rel=1e-4)


def test_a_step_that_is_not_logged_is_left_for_the_next_attempt(model_folder, tmp_path):
    from finetune_trainer.reporting.reached import Reached
    from finetune_trainer.training.loop import train

    left = tmp_path / "reached.json"
    run, state, *_ = a_run(model_folder, maxSteps=3)
    run.recorder.reached = Reached(left, attempt=2)
    train(run, state)
    found = Reached(left, attempt=3).before()
    assert found.attempt == 2
    assert 1 <= found.step <= 3


def test_waiting_for_data_padding_and_memory_are_told_with_every_logged_step(
    model_folder, tmp_path, monkeypatch
):
    """With a clock that goes on by a second whenever it is read.

    Three times a step, of which choosing its rows is one, twice for each of two batches, and once for their end."""
    from finetune_trainer.reporting.history import History
    from finetune_trainer.training.loop import train

    clock = itertools.count(1.0)
    run, state, *_ = a_run(model_folder, maxSteps=3, microBatchSize=4)
    run.recorder.open_history(History(tmp_path / "metrics.jsonl"))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    train(run, state)
    lengths = [run.train.lengths[run.batch(step)] for step in range(3)]
    computed = sum(4 * int(half.max()) for batch in lengths for half in (batch[:4], batch[4:]))
    padding = 1 - sum(int(batch.sum()) for batch in lengths) / computed
    sample, progress = run.recorder.metrics.registry.get_sample_value, run.recorder.report.progress
    assert sample("finetune_train_data_wait_seconds_total") == 3 * 3
    assert sample("finetune_train_step_duration_seconds_sum") == 3 * 7
    assert sample("finetune_train_padding_ratio") == pytest.approx(padding)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert resident >= sample("finetune_train_memory_bytes") >= progress.memory_bytes > 2**20
    assert (progress.data_wait_share, progress.padding_ratio) == pytest.approx((3 / 7, padding), rel=1e-5)
    entries = [entry for entry in run.recorder.history.entries() if entry["event"] == "train"]
    assert [entry["step"] for entry in entries] == [1, 2, 3]
    names = {"gradNorm", "gradNormClipped", "dataWaitShare", "paddingRatio", "memoryBytes"}
    assert all(names <= entry.keys() for entry in entries)
    assert entries[-1]["dataWaitShare"] == pytest.approx(3 / 7, rel=1e-5)


def test_the_memory_of_a_gpu_is_what_torch_allocated_there(monkeypatch):
    import torch

    from finetune_trainer.process.memory import memory_estimate, peak

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**30)
    assert peak() == 3 * 2**30
    layer = torch.nn.Linear(1023, 1024)
    sgd = torch.optim.SGD(layer.parameters(), lr=1.0, momentum=0.9)
    assert memory_estimate(layer, sgd) == (
        "12.00 MiB needed without activations (4.00 MiB parameters + 4.00 MiB gradients + 4.00 MiB optimizer"
        " state); the peak was 3.00 GiB"
    )
    layer.weight.requires_grad_(requires_grad=False)
    assert "(4.00 MiB parameters + 0.00 MiB gradients + 0.00 MiB" in memory_estimate(layer, sgd)


def test_how_long_a_checkpoint_took_and_when_it_was_saved_is_told(model_folder):
    from finetune_trainer.training.loop import save_now, settle

    run, state, *_ = a_run(model_folder)
    run.checkpoints, state.step, before = Checkpoints(lambda _: time.sleep(0.02)), 1, time.time()
    save_now(run, state)
    settle(run)
    sample = run.recorder.metrics.registry.get_sample_value
    assert sample("finetune_train_checkpoint_duration_seconds") >= 0.02
    assert sample("finetune_train_checkpoint_last_success_timestamp_seconds") >= before


def test_early_stopping_tells_what_the_steps_left_would_have_taken_on_all_ranks(model_folder):
    from finetune_trainer.distributed import Ranks
    from finetune_trainer.optimization.early_stopping import Patience
    from finetune_trainer.training.record import record_early_stop

    run, state, log, _ = a_run(model_folder, maxSteps=100, earlyStopping={"patience": 2, "metric": "loss"})
    run.ranks = Ranks(0, 4)
    state.step, state.seconds, state.patience = 10, 20.0, Patience(best=0.5, bad_evaluations=2)
    told = "stopped early at step 10 of 100, which saved about 12m00s of computing time"
    assert record_early_stop(run, state) == f"; {told}"
    assert run.recorder.report.early_stopped.saved_seconds == 2 * 90 * 4
    assert told in "\n".join(log)


def two_sets_of_parameters():
    import torch

    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(shape, generator=generator) for shape in ((3, 4), (5,))]
    sets = []
    for _ in range(2):
        parameters = [torch.nn.Parameter(torch.zeros_like(g)) for g in gradients]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        sets.append(parameters)
    return sets


def test_biases_and_norms_do_not_decay(model_folder):
    run, *_ = a_run(model_folder, optimizer={"weightDecay": 0.3})
    names = {parameter: name for name, parameter in run.task.model.named_parameters()}
    decaying, others = ([names[p] for p in group["params"]] for group in run.optimizer.param_groups)
    assert [group["weight_decay"] for group in run.optimizer.param_groups] == [0.3, 0.0]
    assert all(name.endswith("bias") or "LayerNorm" in name for name in others)
    assert not any(name.endswith("bias") or "LayerNorm" in name for name in decaying)
    assert OptimizerSpec().weight_decay == 0.01


class FullDevice:
    """Makes a model run out of memory for more than so many examples, a number of times."""

    def __init__(self, model, fits, times=10**9, error="CUDA out of memory"):
        self.fits, self.times, self.error = fits, times, error
        model.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module, arguments, inputs):
        import torch

        if len(inputs["input_ids"]) > self.fits and self.times:
            self.times -= 1
            raise torch.OutOfMemoryError(self.error) if "CUDA" in self.error else RuntimeError(self.error)


def test_out_of_memory_halves_the_micro_batch_and_gives_the_update_of_the_halves(model_folder):
    from finetune_trainer.training.loop import train_step

    run, state, log, _ = a_run(model_folder, dropout=0.1, microBatchSize=8)
    FullDevice(run.task.model, fits=3)
    train_step(run, state)
    assert state.micro_batch_size == 2
    other, other_state, *_ = a_run(model_folder, dropout=0.1, microBatchSize=2)
    train_step(other, other_state)
    assert largest_difference(weights(run), weights(other)) == 0
    assert "micro-batches of 2 from now on" in log[-1]


NOT_SUPPORTED = (
    "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input."
)


@pytest.mark.parametrize(
    "error",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        NOT_SUPPORTED,
        "DefaultCPUAllocator: can't allocate memory",
    ],
)
def test_one_example_that_does_not_fit_ends_the_run_with_what_torch_said(model_folder, error):
    """cuDNN's error counts as out of memory too, and means something else where one example does not fit."""
    from finetune_trainer.training.loop import train_step

    run, state, log, _ = a_run(model_folder)
    FullDevice(run.task.model, fits=0, error=f"{error}\nmore lines")
    with pytest.raises(DeviceMemoryError, match=r"one example of .* tokens") as caught:
        train_step(run, state)
    assert f"({error})" in caught.value.message
    assert f"({error}): micro-batches of 1" in log[-1]
    with pytest.raises(DeviceMemoryError) as caught:
        run.evaluator.evaluate(run.validation, 8)
    assert f"({error})" in caught.value.message


@pytest.mark.parametrize("trains", [True, False])
def test_memory_that_is_missing_outside_of_passes_comes_with_what_torch_said(trains):
    import torch

    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters()) if trains else None
    with pytest.raises(DeviceMemoryError) as caught, memory_errors(layer, optimizer):
        raise RuntimeError(NOT_SUPPORTED)
    assert f"outside of forward and backward passes ({NOT_SUPPORTED})" in caught.value.message


def test_a_number_that_is_not_finite_is_traced_to_its_row_and_changes_no_weight(model_folder):
    import torch

    from finetune_trainer.training.loop import train

    run, state, *_ = a_run(model_folder)
    culprit = int(np.flatnonzero(run.train.lines == 17)[0])
    tokens = run.train.ids[run.train.offsets[culprit] : run.train.offsets[culprit + 1]].tolist()

    def poison(module, arguments, inputs, output):
        for number, ids in enumerate(inputs["input_ids"].tolist()):
            if ids[: len(tokens)] == tokens and not any(ids[len(tokens) :]):
                output.logits = (
                    output.logits
                    * torch.where(torch.arange(len(output.logits)) == number, torch.nan, 1.0)[:, None]
                )
        return output

    run.task.model.register_forward_hook(poison, with_kwargs=True)
    seen = []
    run.optimizer.register_step_pre_hook(lambda *_: seen.append(state.step))
    with pytest.raises(DivergedError, match=r"the loss is nan on train\.jsonl row 17; first") as caught:
        train(run, state)
    assert len(seen) == state.step
    assert f"at step {state.step + 1}" in caught.value.message
    assert "the output of BertForSequenceClassification; no weights were changed" in caught.value.message
    assert run.recorder.metrics.nonfinite._value.get() == 1


def test_a_batch_that_only_as_a_whole_is_not_finite_is_looked_at_in_its_micro_batches(model_folder):
    """Of each of them the gradient is finite, their sum is not; and no more than two rows fit into the device."""
    import torch

    from finetune_trainer.training.loop import train_step

    run, state, log, _ = a_run(model_folder, microBatchSize=2, onNonFinite={"action": "SkipStep"})
    FullDevice(run.task.model, fits=2)
    run.task.model.classifier.bias.register_hook(lambda gradient: torch.full_like(gradient, 2e38))
    before = weights(run)
    assert train_step(run, state) is None
    lines = ", ".join(str(line) for line in sorted(run.train.lines[run.batch(0)]))
    assert f"on train.jsonl row {lines}; first NaN or infinity: the gradient of classifier.bias" in "\n".join(
        log
    )
    assert largest_difference(before, weights(run)) == 0


def test_a_stop_is_obeyed_before_the_next_step_and_saves(model_folder):
    from finetune_trainer.training.loop import train

    run, state, _, saved = a_run(model_folder, maxSteps=9)
    run.optimizer.register_step_post_hook(lambda *_: setattr(run.stop, "requested", state.step == 3))
    with pytest.raises(StoppedError, match="stopped by SIGTERM at step 4; checkpoint saved"):
        train(run, state)
    assert saved == [4]


def test_a_stop_during_an_evaluation_saves_and_the_evaluation_is_made_up_for(model_folder):
    from finetune_trainer.training.loop import train

    run, state, _, saved = a_run(model_folder, maxSteps=3, microBatchSize=1)
    calls = itertools.count()

    def stop(module, *_):
        if not module.training and next(calls) == 1:
            run.stop.requested = True

    hook = run.task.model.register_forward_pre_hook(stop)
    with pytest.raises(StoppedError):
        train(run, state)
    assert (saved, state.evaluations) == ([3], [])
    hook.remove()
    run.stop.requested = False
    train(run, state)
    assert [evaluation.step for evaluation in state.evaluations] == [3]


def test_evaluations_come_by_steps_or_epochs_and_always_at_the_end(model_folder):
    from finetune_trainer.training.loop import train

    for every, expected in (({"steps": 4}, [4, 8, 9]), ({"epochs": 2}, [6, 9])):
        run, state, *_ = a_run(model_folder, maxSteps=9, evaluation={"every": every})
        train(run, state)
        assert [evaluation.step for evaluation in state.evaluations] == expected


def test_the_state_survives_its_json(model_folder):
    from finetune_trainer.training.loop import train

    run, state, *_ = a_run(model_folder, maxSteps=6, earlyStopping={"patience": 2})
    train(run, state)
    assert TrainState.from_json(json.loads(json.dumps(state.to_json()))) == state


@pytest.mark.parametrize(
    ("said", "full"),
    [
        ("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes", True),
        ("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1.00 GiB", True),
        ("CUDA error: out of memory", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("CUDA error: device-side assert triggered", False),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_memory_that_is_missing_is_known_by_what_torch_says(said, full):
    assert is_out_of_memory(RuntimeError(said)) == full
