"""From checked inputs to the published model: assemble, resume, train, measure, publish."""

import logging
from contextlib import nullcontext

from finetune_api.metrics import plain
from finetune_api.run import RunReport
from finetune_api.status import Metrics, ModelStatus
from finetune_api.training import Resume
from finetune_trainer.distributed import destroy_process_group, init_process_group, lost_peers, unshard
from finetune_trainer.process.memory import memory_errors
from finetune_trainer.publishing.folder import publish
from finetune_trainer.publishing.trained import Trained
from finetune_trainer.reporting.recorder import duration, short
from finetune_trainer.training.assembly import Assembly, assemble, start_torch
from finetune_trainer.training.context import Run
from finetune_trainer.training.debug import report_findings
from finetune_trainer.training.evaluator import EVALUATION_FACTOR, defined
from finetune_trainer.training.inputs import Inputs, clear
from finetune_trainer.training.loop import train
from finetune_trainer.training.record import padding, record_early_stop
from finetune_trainer.training.state import TrainState

logger = logging.getLogger(__name__)


def train_and_publish(inputs: Inputs, threads: int) -> RunReport:
    """Every rank does the same, and the first one writes; returns the final report."""
    compute, recorder = start_torch(inputs, threads), inputs.recorder
    with lost_peers():
        head, sharding = inputs.config.model.head, inputs.config.training.sharding
        sync_batch_norm = head is not None and head.batch_norm
        ranks = init_process_group(inputs.process, compute, sharding, sync_batch_norm=sync_batch_norm)
        parts = assemble(inputs, compute, ranks)
        fence = inputs.fence.guard() if ranks.is_main else nullcontext()
        with fence, memory_errors(parts.run.task.model, parts.run.optimizer):
            state = resume(parts.run)
            ending = train_and_report(parts.run, state)
            findings = report_findings(parts.run.debug, recorder, state.step)
            metrics = final_metrics(parts, state)
            message = f"{_trained(state, metrics)}{ending}{_refused(state)}{findings}"
            recorder.update(message=recorder.with_caveats(message))  # which is published with the model
            model = publish_model(inputs, parts, metrics)
        destroy_process_group()
    return recorder.report.model_copy(update={"model": model})


def resume(run: Run) -> TrainState:
    """The state of the newest whole checkpoint, put into model and optimizer, or a fresh one."""
    state = run.checkpoints.restore() if run.training.checkpoint.resume is Resume.AUTO else None
    if state is None:
        state = TrainState(micro_batch_size=run.training.micro_batch_size or 1)
    else:
        logger.info(f"resuming from the checkpoint of step {state.step}")
    run.recorder.rewind(state.step, state.evaluations, state.best)
    run.recorder.update(from_step=state.step)
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


def final_metrics(parts: Assembly, state: TrainState) -> Metrics:
    """Metrics of the weights that are recorded: eval_ of their evaluation, test_ measured now, once."""
    step, run = state.step, parts.run
    stopping = run.training.early_stopping
    if stopping and stopping.restore_best and state.best and state.best.step != step:
        step = _restore_best(run, state.best.step, step)
    chosen = next((e for e in reversed(state.evaluations) if e.step == step), state.evaluations[-1])
    metrics = {"eval_loss": chosen.eval_loss, **{f"eval_{name}": v for name, v in chosen.metrics.items()}}
    metrics |= _test_metrics(parts, state)
    return {name: value for name, value in metrics.items() if value is not None}


def _test_metrics(parts: Assembly, state: TrainState) -> dict[str, float | None]:
    run = parts.run
    if parts.test is None:
        return {}
    scores = run.evaluator.evaluate(parts.test, state.micro_batch_size * EVALUATION_FACTOR)
    if scores is None:
        raise run.stop.to_error(f" after step {state.step}, the last one; checkpoint saved")
    names = ["loss", *(plain(name) for name in run.training.evaluation.metrics or [])]
    numbers, undefined = defined(scores, list(dict.fromkeys(names)))
    if undefined:
        logger.warning(f"not defined on the test rows: {', '.join(undefined)}")
    return {f"test_{name}": short(value) for name, value in numbers.items()}


def _restore_best(run: Run, best: int, last: int) -> int:
    """Put the best weights into the model where they are still there; returns the step of its weights now."""
    if run.checkpoints.restore_weights(best):
        logger.info(f"the weights of step {best}, the best ones, are recorded")
        return best
    logger.warning(
        f"the checkpoint of step {best}, the best one, is lost or damaged: the last weights are recorded"
    )
    return last


def publish_model(inputs: Inputs, parts: Assembly, metrics: Metrics) -> ModelStatus | None:
    """Publish the folder, then remove the checkpoints; a crash between the two is found by `published`."""
    recorder, fence, run, task = inputs.recorder, inputs.fence, parts.run, parts.run.task
    unshard(task.model)
    if not run.ranks.is_main:
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
        debug_files=run.debug.folder if run.debug else None,
        stopped_at=early.step if early else None,
    )
    model = publish(inputs.config, trained, recorder.report, fence.assert_owner)
    recorder.release_history()
    clear(fence, inputs.config)
    logger.info(f"the model is in {model.uri} ({model.files} files, {model.size_bytes} bytes)")
    return run.ranks.broadcast(model)
