"""One run from RunConfig to RunReport: data, model, loop, evaluation, model folder.

What needs no torch comes first, so that a mistake in the input is answered within a second or two."""

import logging
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from finetune_api.metrics import plain
from finetune_api.run import RunConfig, RunReport
from finetune_api.status import Metrics
from finetune_api.training import Resume
from finetune_trainer.process.launch import Process
from finetune_trainer.process.memory import memory_errors
from finetune_trainer.process.stop import Stop
from finetune_trainer.publishing.folder import publish, published
from finetune_trainer.publishing.trained import Trained
from finetune_trainer.reporting.recorder import Recorder, duration, short
from finetune_trainer.training.assembly import assemble, newest, start_torch
from finetune_trainer.training.inputs import (
    Inputs,
    clear,
    clear_all,
    nothing_left_if_pruned,
    read_inputs,
)
from finetune_trainer.training.looks import finish
from finetune_trainer.training.state import TrainState

if TYPE_CHECKING:
    from finetune_trainer.training.context import Run

logger = logging.getLogger(__name__)


def run(config: RunConfig, recorder: Recorder, stop: Stop, process: Process, threads: int) -> RunReport:
    """Train and publish a model, or find that an earlier attempt already did; returns the final report.

    Every process of a run does the same; the first alone writes. Raises the errors of finetune_trainer.errors.
    """
    done = published(config)
    if done is None:
        with nothing_left_if_pruned(config, process):
            return train_and_publish(config, recorder, stop, process, threads)
    if process.rank == 0:
        logger.info(f"the model is already published in {done.model and done.model.uri}; nothing to train")
        clear_all(config)
    return done


def train_and_publish(
    config: RunConfig, recorder: Recorder, stop: Stop, process: Process, threads: int
) -> RunReport:
    """From the files to the published model."""
    inputs = read_inputs(config, recorder, stop, process)
    compute = start_torch(inputs, threads)
    from finetune_trainer.distributed import destroy_process_group, init_process_group, lost_peers

    with lost_peers():
        head = config.model.head
        sync_batch_norm = head is not None and head.batch_norm
        ranks = init_process_group(
            process, compute, config.training.sharding, sync_batch_norm=sync_batch_norm
        )
        training, tokenizer, test = assemble(inputs, compute, ranks)
        fence = inputs.checkpoints.fence() if ranks.is_main else nullcontext()
        with fence, memory_errors(training.judge.model, training.optimizer):
            state = resume(inputs, training)
            ending = train_and_tell(inputs, training, state)
            looked = finish(training, state)
            metrics = final_metrics(inputs, training, state, test)
            message = f"{_trained(state, metrics)}{ending}{_refused(state)}{looked}"
            recorder.update(message=recorder.with_caveats(message))  # which is published with the model
            model = publish_model(inputs, training, tokenizer, metrics)
        destroy_process_group()
    return recorder.report.model_copy(update={"model": model})


def resume(inputs: Inputs, training: "Run") -> TrainState:
    """The state of the newest whole checkpoint, put into model and optimizer, or a fresh one."""
    from finetune_trainer.checkpoints.snapshot import restore

    spec, recorder = inputs.config.training, inputs.recorder
    ranks = training.ranks
    loaded = newest(inputs.checkpoints, ranks) if spec.checkpoint.resume is Resume.AUTO else None
    state = TrainState(micro_batch_size=spec.micro_batch_size or 1)
    if loaded is not None:
        restore(loaded.tensors, training.judge.model, training.optimizer, ranks)
        state = TrainState.from_json(loaded.state)
        logger.info(f"going on from the checkpoint of step {loaded.step}")
    recorder.rewind(state.step, state.evaluations, state.best)
    recorder.update(from_step=state.step)
    if training.debug is not None:
        training.debug.start(state.step)
    return state


def train_and_tell(inputs: Inputs, training: "Run", state: TrainState) -> str:
    """Run the loop, and note how it ended; returns what the final message has to say of it."""
    from finetune_trainer.training.loop import train
    from finetune_trainer.training.record import note_early_stop, padding

    train(training, state)
    recorder = inputs.recorder
    effective = recorder.report.effective
    if effective is not None:
        recorder.update(effective=effective.model_copy(update={"micro_batch_size": state.micro_batch_size}))
    logger.info(
        f"training ended at step {state.step}; {100 * padding(state):.1f} % of the computed positions were padding"
    )
    return note_early_stop(training, state)


def _trained(state: TrainState, metrics: Metrics) -> str:
    told = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    return f"trained {state.step} steps in {duration(state.seconds)}: {told}"


def _refused(state: TrainState) -> str:
    return f"; {state.nonfinite} times a step was not finite" if state.nonfinite else ""


def final_metrics(inputs: Inputs, training: "Run", state: TrainState, test: Any) -> Metrics:
    """Metrics of the weights that are recorded: eval_ of their evaluation, test_ measured now, once."""
    from finetune_trainer.checkpoints.snapshot import restore_model
    from finetune_trainer.training.evaluate import EVALUATION_FACTOR, defined

    step, stopping = state.step, inputs.config.training.early_stopping
    if stopping and stopping.restore_best and state.best and state.best.step != step:
        step = training.ranks.broadcast(_best_step(inputs, state.best.step, step))
        if step != state.step:
            restore_model(inputs.checkpoints.load(step).tensors["model"], training.judge.model)
    chosen = next((e for e in reversed(state.evaluations) if e.step == step), state.evaluations[-1])
    metrics = {"eval_loss": chosen.eval_loss, **{f"eval_{name}": v for name, v in chosen.metrics.items()}}
    if test is not None:
        scores = training.judge.evaluate(test, state.micro_batch_size * EVALUATION_FACTOR)
        if scores is None:
            raise inputs.stop.error(f" after step {state.step}, the last one; checkpoint saved")
        names = ["loss", *(plain(name) for name in inputs.config.training.evaluation.metrics or [])]
        numbers, undefined = defined(scores, list(dict.fromkeys(names)))
        if undefined:
            told = f"not defined on the test rows: {', '.join(undefined)}"
            logger.warning(told)
        metrics |= {f"test_{name}": short(value) for name, value in numbers.items()}
    return {name: value for name, value in metrics.items() if value is not None}


def _best_step(inputs: Inputs, best: int, last: int) -> int:
    if inputs.checkpoints.has(best):
        logger.info(f"the weights of step {best}, the best ones, are recorded")
        return best
    logger.warning(
        f"the checkpoint of step {best}, the best one, is lost or damaged: the last weights are recorded"
    )
    return last


def publish_model(inputs: Inputs, training: "Run", tokenizer: Any, metrics: Metrics) -> Any:
    """Publish the folder, then remove the checkpoints; a crash between the two is found by `published`."""
    from finetune_trainer.distributed import unshard

    recorder, checkpoints, ranks = inputs.recorder, inputs.checkpoints, training.ranks
    unshard(training.judge.model)
    if not ranks.is_main:
        return ranks.broadcast(None)
    assert recorder.history is not None
    checkpoints.assert_owner()
    training.judge.objective.finish(training.judge.model)
    looks = training.debug.folder if training.debug else None
    early = recorder.report.early_stopped
    trained = Trained(
        inputs.config, training.judge.model, tokenizer, metrics, recorder.history, looks, early and early.step
    )
    model = publish(inputs.config, trained, recorder.report, checkpoints.assert_owner)
    recorder.release_history()
    clear(checkpoints, inputs.config)
    logger.info(f"the model is in {model.uri} ({model.files} files, {model.size_bytes} bytes)")
    return ranks.broadcast(model)
