"""From checked inputs to the published model: assemble, resume, train, measure, publish."""

import logging
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch

from finetune_api.metrics import plain
from finetune_api.run import FaultPlace, ModelInput, RunReport
from finetune_api.status import EpochStatus, Metrics, ModelStatus, Weights
from finetune_api.training import Resume
from finetune_trainer.data.tokens import Examples
from finetune_trainer.distributed import (
    Ranks,
    destroy_process_group,
    init_process_group,
    lost_peers,
)
from finetune_trainer.errors import DivergedError
from finetune_trainer.models.adapters import merges
from finetune_trainer.models.folder import ModelFolder
from finetune_trainer.models.precision import dtype_name, published_dtype, round_weights
from finetune_trainer.models.unquantized import loses_digits, publishable
from finetune_trainer.process.devices import Compute
from finetune_trainer.process.memory import memory_errors
from finetune_trainer.process.stop import ended_by_signals
from finetune_trainer.publishing.card import Sample
from finetune_trainer.publishing.folder import publish
from finetune_trainer.publishing.sharded import gather_small, is_sharded, take_part
from finetune_trainer.publishing.trained import Trained
from finetune_trainer.reporting.recorder import duration, short
from finetune_trainer.training.agreement import check_same_inputs, check_shared_output
from finetune_trainer.training.assembly import Assembly, assemble, start_torch
from finetune_trainer.training.comparison import choice_sentence, own_metrics
from finetune_trainer.training.context import Run
from finetune_trainer.training.debug import report_findings
from finetune_trainer.training.evaluator import EVALUATION_FACTOR, defined
from finetune_trainer.training.inputs import Inputs, clear, stop_if_asked
from finetune_trainer.training.loop import train
from finetune_trainer.training.record import padding, record_early_stop
from finetune_trainer.training.samples import samples_of
from finetune_trainer.training.state import TrainState
from finetune_trainer.training.untrained import judge, measure_untrained

logger = logging.getLogger(__name__)


def train_and_publish(inputs: Inputs, threads: int) -> RunReport:
    """Every rank does the same, and the first one writes; returns the final report."""
    compute, recorder = start_torch(inputs, threads), inputs.recorder
    with lost_peers():
        ranks = join(inputs, compute)
        parts = assemble(inputs, compute, ranks)
        fence = inputs.fence.guard() if ranks.is_main else nullcontext()
        with fence, memory_errors(parts.run.task.model, parts.run.optimizer):
            untrained = measure_untrained(inputs, parts)
            state = resume(parts.run)
            most = inputs.config.devices.max_micro_batch_size
            state.micro_batch_size = min(state.micro_batch_size, most or state.micro_batch_size)
            ending = train_and_report(parts.run, state)
            findings = report_findings(parts.run.debug, recorder, state.step)
            final = as_published(inputs, parts, state)
            metrics, conversion = final_metrics(final, state)
            judge(inputs, final.parts.run, final.evaluation.step, metrics, untrained)
            samples = samples_of(final.parts.run, parts.tokenizer, untrained.texts)
            chosen = f"; {final.choice}" if final.choice else ""
            message = f"{_trained(state, metrics)}{chosen}{ending}{_refused(state)}{findings}"
            recorder.update(message=recorder.with_caveats(message))  # which is published with the model
            model = publish_model(inputs, final, metrics, conversion, samples)
        destroy_process_group()
    return recorder.report.model_copy(update={"model": model})


def join(inputs: Inputs, compute: Compute) -> Ranks:
    """Meet the other processes, which must have read what this one has."""
    head, training = inputs.config.model.head, inputs.config.training
    sharding, tensor = training.sharding, training.tensor_parallel
    sync_batch_norm = head is not None and head.batch_norm
    with ended_by_signals() if inputs.process.world_size > 1 else nullcontext():
        stop_if_asked(inputs.stop)
        ranks = init_process_group(inputs.process, compute, sharding, tensor, sync_batch_norm=sync_batch_norm)
    check_same_inputs(inputs, ranks)
    if inputs.process.nodes > 1:
        check_shared_output(inputs, ranks)
    return ranks


def resume(run: Run) -> TrainState:
    """The state of the newest whole checkpoint, put into model and optimizer, or a fresh one."""
    state = run.checkpoints.restore() if run.training.checkpoint.resume is Resume.AUTO else None
    if state is None:
        state = TrainState(micro_batch_size=run.training.micro_batch_size or 1)
    else:
        logger.info(f"resuming from the checkpoint of step {state.step}")
    run.recorder.rewind(state.step, state.evaluations, state.best)
    run.recorder.resume(state.step)
    if run.debug is not None:
        run.debug.start(state.step)
    return state


def train_and_report(run: Run, state: TrainState) -> str:
    """Run the loop, and report how it ended; returns what the final message says of it."""
    train(run, state)
    effective = run.recorder.report.effective
    if effective is not None:
        changed = {"micro_batch_size": state.micro_batch_size}
        run.recorder.update(effective=effective.model_copy(update=changed))
    logger.info(
        f"training ended at step {state.step}; {100 * padding(state):.1f} % of the computed tokens were padding"
    )
    return record_early_stop(run, state)


def _trained(state: TrainState, metrics: Metrics) -> str:
    measured = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    return f"trained {state.step} steps in {duration(state.seconds)}: {measured}"


def _refused(state: TrainState) -> str:
    if not state.nonfinite:
        return ""
    steps = "1 step" if state.nonfinite == 1 else f"{state.nonfinite} steps"
    return f"; {steps} had a NaN or infinite loss or gradient"


@dataclass(frozen=True)
class Final:
    """A run whose model has the weights that are published."""

    parts: Assembly
    evaluation: EpochStatus
    """Of these weights."""
    choice: str
    """Which of the trained and the averaged weights they are, and why; empty without training.ema."""
    dtype: torch.dtype
    change: str
    """What made them others than the trained ones; empty if nothing did."""


def as_published(inputs: Inputs, parts: Assembly, state: TrainState) -> Final:
    """Give the model the weights that are published.

    The best weights, where early stopping restores them; the averaged ones, where they are better than the trained ones
    of that step; an adapter merged; rounded to the format of output.dtype. With a sharded model the last two happen
    when it is written.
    """
    run, spec = parts.run, inputs.config.model
    check_measured(run, state)
    stopping, step = run.training.early_stopping, state.step
    if stopping and stopping.restore_best and state.best and state.best.step != state.step:
        step = _restore_best(run, state.best.step, state.step)
    evaluation = next((e for e in reversed(state.evaluations) if e.step == step), state.evaluations[-1])
    check_defined(run, own_value(evaluation, run.training.evaluation.best_metric), f"at step {step}")
    choice = _choose(run, evaluation) if run.average else ""
    dtype = published_dtype(inputs.config.output.dtype, inputs.folder.path)
    logger.info(f"the weights are published in {dtype_name(dtype)}")
    change = changes_weights(inputs.folder, spec, dtype)
    if run.ranks.divided:
        if change:
            logger.info("the metrics are those of the trained weights: a sharded model is not measured again")
        return Final(parts, evaluation, choice, dtype, "")
    model = publishable(run.task.model, inputs.folder, spec, run.task.objective, dtype)
    task = replace(run.task, model=model)
    if dtype is not torch.float32:
        task.objective.finish(task.model)
        round_weights(task.model, dtype)
        task.objective.begin(task.model)
    run = replace(run, task=task, evaluator=replace(run.evaluator, task=task))
    return Final(replace(parts, run=run), evaluation, choice, dtype, change)


def changes_weights(folder: ModelFolder, spec: ModelInput, dtype: torch.dtype) -> str:
    """What makes the published weights others than the trained ones; empty if nothing does."""
    rounding = [] if dtype is torch.float32 else [f"rounding to {dtype_name(dtype)}"]
    lost = spec.weights.value if loses_digits(folder, spec) else ""
    if merges(spec):
        into = f" into the checkpoint's weights, where it was trained on {lost}," if lost else ""
        return " and ".join([f"merging the adapter{into}", *rounding])
    again = (
        [f"taking the frozen weights from the checkpoint in place of {lost}"]
        if lost and not spec.adapter
        else []
    )
    return " and ".join([*again, *rounding])


def final_metrics(final: Final, state: TrainState) -> tuple[Metrics, str | None]:
    """Metrics of the weights that are published, and how they differ from those of the trained ones.

    eval_ is that of their evaluation, measured again where something changed them; test_ is measured now, once.
    """
    parts, run = final.parts, final.parts.run
    metrics: dict[str, float | None] = {"eval_loss": final.evaluation.eval_loss}
    metrics |= {f"eval_{name}": value for name, value in own_metrics(final.evaluation).items()}
    conversion = None
    if final.change:
        trained, metrics = metrics, _measure(parts, state, run.validation, "eval")
        measured = metrics.get(f"eval_{plain(run.training.evaluation.best_metric)}")
        check_defined(run, measured, f"after {final.change}")
        conversion = _difference(final.change, trained, metrics)
        logger.info(conversion)
    if parts.test is not None:
        metrics |= _measure(parts, state, parts.test, "test")
    wanted = [plain(name) for name in run.training.evaluation.metrics or []]
    for prefix, rows in {"eval": "validation", "test": "test"}.items():
        names = [name for name in dict.fromkeys(["loss", *wanted]) if metrics.get(f"{prefix}_{name}") is None]
        if names and (prefix == "eval" or parts.test is not None):
            run.recorder.caveat(f"not defined on the {rows} rows: {', '.join(names)}")
    return {name: value for name, value in metrics.items() if value is not None}, conversion


def _difference(change: str, trained: dict[str, float | None], metrics: dict[str, float | None]) -> str:
    """What a change of the weights did to their metrics."""
    pairs = [
        f"{name} {before:.4f} became {after:.4f}"
        for name, after in metrics.items()
        if (before := trained.get(name)) is not None and after is not None
    ]
    return f"by {change}, {', '.join(pairs)}"


def check_measured(run: Run, state: TrainState) -> None:
    """Raise DivergedError where no evaluation gave a number that decides which weights are good."""
    if state.best is None:
        metric = run.training.evaluation.best_metric
        raise DivergedError(
            f"{metric} was not defined in any of the {len(state.evaluations)} evaluations, so nothing is known of the"
            " model and it is not published. If its outputs are NaN or infinite, the log names the rows: look at them,"
            " or set training.precision: Float32. If not, the metric cannot be computed on these validation rows:"
            " choose another training.evaluation.bestMetric, or give more rows",
            FaultPlace(field="training.evaluation.bestMetric"),
        )


def own_value(evaluation: EpochStatus, metric: str) -> float | None:
    """The value of a metric; None where it was not defined."""
    key = plain(metric)
    return evaluation.eval_loss if key == "loss" else evaluation.metrics.get(key)


def check_defined(run: Run, value: float | None, when: str) -> None:
    """Raise DivergedError where nothing is known of the weights that would be published."""
    if value is None:
        metric = run.training.evaluation.best_metric
        raise DivergedError(
            f"{metric} is not defined {when}, so nothing is known of these weights and they are not published. If the"
            " log says that outputs are NaN or infinite: try a smaller training.optimizer.learningRate, or"
            " training.precision: Float32",
            FaultPlace(field="training.evaluation.bestMetric"),
        )


def _measure(parts: Assembly, state: TrainState, examples: Examples, prefix: str) -> dict[str, float | None]:
    """Metrics of the model as it is now, with this prefix; those that are not defined are absent."""
    run = parts.run
    scores = run.evaluator.evaluate(examples, state.micro_batch_size * EVALUATION_FACTOR)
    if scores is None:
        raise run.stop.to_error(f" after step {state.step}, the last one; checkpoint saved")
    spec = run.training.evaluation
    chosen = [spec.best_metric, *(spec.metrics or [])] if prefix == "eval" else spec.metrics or []
    names = ["loss", *map(plain, chosen)]
    numbers, _ = defined(scores, list(dict.fromkeys(names)))
    return {f"{prefix}_{name}": short(value) for name, value in numbers.items()}


def _restore_best(run: Run, best: int, last: int) -> int:
    """Put the best weights into the model where they are still there; returns the step of its weights now."""
    if run.checkpoints.restore_weights(best):
        logger.info(f"the weights of step {best}, the best ones, are recorded")
        return best
    logger.warning(
        f"the checkpoint of step {best}, the best one, is lost or damaged: the last weights are recorded"
    )
    return last


def _choose(run: Run, evaluation: EpochStatus) -> str:
    """Put the averaged weights into the model, where the evaluation found them better; says which ones it has now."""
    assert run.average is not None
    if evaluation.weights is Weights.EMA:
        run.average.swap()
    choice = choice_sentence(evaluation, run.training.evaluation.best_metric, run.average.updates)
    logger.info(choice)
    return choice


def publish_model(
    inputs: Inputs, final: Final, metrics: Metrics, conversion: str | None, samples: list[Sample]
) -> ModelStatus | None:
    """Publish the folder, then remove the checkpoints; a crash between the two is found by `published`."""
    parts, run, task = final.parts, final.parts.run, final.parts.run.task
    recorder, fence = inputs.recorder, inputs.fence
    gather_small(task.model, inputs.config.model)
    if not run.ranks.is_main:
        if is_sharded(task.model, inputs.config.model):
            take_part(task.model, final.dtype)
        received: ModelStatus | None = run.ranks.broadcast(None)
        return received
    assert recorder.history is not None
    fence.assert_owner()
    task.objective.finish(task.model)
    early = recorder.report.early_stopped
    trained = Trained(
        inputs.config,
        task.model,
        parts.tokenizer,
        metrics,
        recorder.history,
        inputs.folder.base or inputs.folder.name,
        final.dtype,
        conversion,
        final.evaluation.weights,
        final.choice,
        debug_files=run.debug.folder if run.debug else None,
        stopped_at=early.step if early else None,
        samples=samples,
        stops=run.train.stop_ids,
    )
    model = publish(inputs.config, trained, recorder.report, fence.assert_owner)
    recorder.release_history()
    clear(fence, inputs.config)
    logger.info(f"the model is in {model.uri} ({model.files} files, {model.size_bytes} bytes)")
    return run.ranks.broadcast(model)
