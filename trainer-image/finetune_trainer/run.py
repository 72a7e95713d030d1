"""One run from RunConfig to RunReport: data, model, loop, evaluation, model folder.

Called by `__main__` only.

What needs no torch comes first, so that a mistake in the input is answered within a second or two.
"""

import shutil
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.dataset import Packing
from finetune_api.metrics import plain
from finetune_api.model import Initialize
from finetune_api.run import RunConfig, RunReport
from finetune_api.status import EarlyStoppedStatus, EffectiveStatus, Metrics, ResolvedStatus
from finetune_api.training import Resume
from finetune_trainer.adapters import check_adapter
from finetune_trainer.checkpoint import Checkpoints, Loaded
from finetune_trainer.config import fingerprint
from finetune_trainer.control import Stop
from finetune_trainer.data.dataset import Dataset, read_dataset
from finetune_trainer.errors import StoppedError
from finetune_trainer.heads import check_head
from finetune_trainer.hub import fetch
from finetune_trainer.launch import Process
from finetune_trainer.layers import layers_of
from finetune_trainer.looks import debug_of, finish, history_of
from finetune_trainer.model import (
    ModelFolder,
    check_folder,
    checkpoint_activations,
    load_model,
    load_tokenizer,
    longest_input,
)
from finetune_trainer.objectives import OBJECTIVES
from finetune_trainer.report import Reporter, duration, short
from finetune_trainer.state import TrainState
from finetune_trainer.storage.folder import Trained, publish, published
from finetune_trainer.vocabulary import add_tokens, check_fit

if TYPE_CHECKING:
    from finetune_trainer.data.tokens import Examples
    from finetune_trainer.devices import Compute
    from finetune_trainer.distributed import Ranks
    from finetune_trainer.session import Run

LABELS_REPORTED = 50


@dataclass(frozen=True)
class Inputs:
    """What was read and checked before torch is needed."""

    config: RunConfig
    reporter: Reporter
    stop: Stop
    process: Process
    dataset: Dataset
    folder: ModelFolder
    checkpoints: Checkpoints


def run(config: RunConfig, reporter: Reporter, stop: Stop, process: Process, threads: int) -> RunReport:
    """Train and publish a model, or find that an earlier attempt already did; returns the final report.

    Every process of a run does the same; the first alone writes. Raises the errors of finetune_trainer.errors.
    """
    done = published(config)
    if done is not None:
        reporter.report = done
        if process.rank:
            return done
        reporter.say(f"the model is already published in {done.model and done.model.uri}; nothing to train")
        leftover = _checkpoints(config, reporter)
        leftover.claim()
        _clear(leftover, config)
        return done
    inputs = read_inputs(config, reporter, stop, process)
    compute = start_torch(inputs, threads)
    from finetune_trainer.distributed import join, leave, lost_peers

    with lost_peers():
        head = config.model.head
        normalised = head is not None and head.batch_norm
        ranks = join(process, compute, config.training.sharding, normalised=normalised)
        training, tokenizer, test = assemble(inputs, compute, ranks)
        with inputs.checkpoints.fence() if ranks.first else nullcontext():
            state = resume(inputs, training)
            train_and_tell(inputs, training, state)
            looked = finish(training, state)
            metrics = final_metrics(inputs, training, state, test)
            model = publish_model(inputs, training, tokenizer, metrics)
        leave()
    told = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    message = f"trained {state.step} steps in {duration(state.seconds)}: {told}{_refused(state)}{looked}"
    reporter.update(model=model, message=message[:1024])
    return reporter.report


def read_inputs(config: RunConfig, reporter: Reporter, stop: Stop, process: Process) -> Inputs:
    """Fetch what is on the Hub, look at the model's folder, read the data and claim the checkpoints."""
    config = fetch(config, reporter, stop)
    checkpoints = _checkpoints(config, reporter)
    check_head(config.model.head, by_row=not OBJECTIVES[config.objective.kind].per_token)
    check_adapter(config.model)
    folder = check_folder(config.model)
    dataset = read_dataset(config, reporter, lambda: _stop_if_asked(stop))
    if process.rank == 0:
        checkpoints.claim()
    found = dataset.resolved
    tokenizer = folder.tokenizer_resolved(config.model)
    reporter.update(resolved=ResolvedStatus(model=folder.resolved, tokenizer=tokenizer, **found))
    digests = {name: part.digest for name, part in found.items()}
    digests |= {"model": folder.resolved.digest, "tokenizer": folder.tokenizer_digest}
    checkpoints.fingerprint = fingerprint(config, digests)
    if process.rank == 0:
        reporter.history = history_of(config.training.debug, checkpoints.folder)
    _stop_if_asked(stop)
    return Inputs(config, reporter, stop, process, dataset, folder, checkpoints)


def _checkpoints(config: RunConfig, reporter: Reporter) -> Checkpoints:
    def say(text: str) -> None:
        reporter.say(text, level="warning")

    return Checkpoints(
        Path(config.output.checkpoint_dir), config.job.attempt, config.training.checkpoint.keep, say
    )


def _clear(checkpoints: Checkpoints, config: RunConfig) -> None:
    """Remove the checkpoints, downloads that lie beside them, and that folder where it is this job's own."""
    checkpoints.remove_all()
    own = checkpoints.folder.parent
    if config.output.hub_dir and Path(config.output.hub_dir).parent == own:
        shutil.rmtree(config.output.hub_dir, ignore_errors=True)
    if own.name == config.job.uid:
        with suppress(OSError):
            own.rmdir()
            own.parent.rmdir()


def start_torch(inputs: Inputs, threads: int) -> "Compute":
    """Choose the device, and say what computes."""
    from finetune_trainer.devices import choose_compute, seed_everything, use_deterministic_algorithms

    config = inputs.config
    use_deterministic_algorithms(wanted=config.training.deterministic)
    process = inputs.process
    compute = choose_compute(config.devices, config.training.precision, threads, process.rank)
    seed_everything(config.training.seed)
    inputs.checkpoints.environment |= {
        "device": compute.name,
        "precision": compute.precision.value,
        "threads": str(threads),
        "processes": str(process.world),
    }
    told = f"computing on {compute.name} in {compute.precision.value}"
    told += f" in {process.world} processes" if process.world > 1 else ""
    inputs.reporter.say(told + (f" with {threads} threads" if "cpu" in compute.name else ""))
    return compute


def assemble(inputs: Inputs, compute: "Compute", ranks: "Ranks") -> "tuple[Run, Any, Any]":
    """Load the model, tokenize the rows, build the optimizer; returns the run, the tokenizer and the test examples."""
    from finetune_trainer.devices import seed_everything
    from finetune_trainer.dropout import use_fast_dropout
    from finetune_trainer.evaluate import Judge
    from finetune_trainer.freezing import trained_later
    from finetune_trainer.optim import build_optimizer, told
    from finetune_trainer.session import Run
    from finetune_trainer.snapshot import capture, restore

    config, dataset, reporter = inputs.config, inputs.dataset, inputs.reporter
    objective, preprocessing = dataset.objective, config.dataset.preprocessing
    tokenizer = load_tokenizer(inputs.folder, preprocessing.truncation.value.lower())
    added = add_tokens(tokenizer, config.model.add_tokens)
    model: Any = load_model(inputs.folder, config.model, objective, tokenizer.pad_token_id, added)
    check_fit(model, tokenizer, inputs.folder.name)
    if config.training.activation_checkpointing:
        checkpoint_activations(model, inputs.folder.name)
    objective.check(model)
    if compute.device.type == "cpu":
        use_fast_dropout(model)
    ranks.share(model, layers_of(model), compute)
    model.train()
    _stop_if_asked(inputs.stop)
    most = _longest(preprocessing.max_length, longest_input(model, tokenizer), reporter)
    train, validation, *test = tokenize_all(inputs, tokenizer, most, compute)
    optimizer = build_optimizer(
        model,
        config.training.optimizer,
        config.model.layer_learning_rate_decay,
        trained_later(model, config.model.freeze),
    )
    reporter.say(f"parameter groups: {told(optimizer)}")
    checkpoints = inputs.checkpoints

    def save(state: TrainState) -> None:
        best, tensors = state.best.step if state.best else None, capture(model, optimizer, ranks)
        if ranks.first:
            checkpoints.save(state.step, tensors, state.to_json(), best)
        ranks.decided(None)  # none ends before the checkpoint is whole

    def restore_newest() -> TrainState:
        loaded = _newest(checkpoints, ranks)
        assert loaded is not None, "a rollback begins with a checkpoint of its start"
        restore(loaded.tensors, model, optimizer, ranks)
        return TrainState.from_json(loaded.state)

    pad_id = tokenizer.pad_token_id or 0
    judge = Judge(model, objective, compute, pad_id, inputs.stop, ranks)
    training = Run(
        judge,
        optimizer,
        config.training,
        train,
        validation,
        save,
        restore_newest,
        reporter,
        config.model.freeze,
    )
    if ranks.first:
        training.debug = debug_of(config.training.debug, model, checkpoints.folder)
    seed_everything(config.training.seed + ranks.rank)
    _tell_effective(inputs, training, model)
    return training, tokenizer, test[0] if test else None


def tokenize_all(inputs: Inputs, tokenizer: Any, most: int, compute: "Compute") -> "list[Examples]":
    """Training, validation and, where there are, test rows as tokens, in files beside the checkpoints."""
    from finetune_trainer.data.cache import TokenCache
    from finetune_trainer.data.encoding import Encoding

    dataset, causal, say = inputs.dataset, inputs.config.objective.causal_lm, inputs.reporter.say
    how = Encoding(tokenizer, most, mask_prompt=causal.mask_prompt if causal else False)
    parts = [dataset.train, dataset.validation, *([dataset.test] if dataset.test else [])]
    writes = inputs.process.rank == 0
    with TokenCache(inputs.checkpoints.folder, say, lambda: _stop_if_asked(inputs.stop), writes) as cache:
        examples = [cache.examples(part, dataset.objective, how) for part in parts]
    packing = inputs.config.dataset.preprocessing.packing
    on_gpu = compute.device.type == "cuda"
    if causal and (packing is Packing.ALWAYS or (packing is Packing.AUTO and on_gpu)):
        say(f"texts share sequences of at most {most} tokens, where none sees another")
        return [replace(part, packed_to=most) for part in examples]
    return examples


def _longest(asked: int, able: int | None, reporter: Reporter) -> int:
    if able is not None and able < asked:
        reporter.say(
            f"texts are cut to {able} tokens: the model takes no more than that (maxLength is {asked})"
        )
        return able
    return asked


def _tell_effective(inputs: Inputs, training: "Run", model: Any) -> None:
    config, judge = inputs.config, training.judge
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in model.parameters())
    how = "random weights" if config.model.initialize is Initialize.RANDOM else "pretrained weights"
    inputs.reporter.say(
        f"{type(model).__name__} with {how}: {trainable:,} of {everything:,} parameters are trained;"
        f" {training.total_steps} steps of {config.training.batch_size} examples"
    )
    effective = EffectiveStatus(
        training=config.training,
        output_uri=config.output.uri,
        labels=judge.objective.labels and judge.objective.labels[:LABELS_REPORTED],
        device=judge.compute.name,
        precision=judge.compute.precision.value,
        micro_batch_size=config.training.micro_batch_size,
        total_steps=training.total_steps,
        processes=judge.ranks.world,
    )
    inputs.reporter.update(effective=effective)


def resume(inputs: Inputs, training: "Run") -> TrainState:
    """The state of the newest whole checkpoint, put into model and optimizer, or a fresh one."""
    from finetune_trainer.snapshot import restore

    spec, reporter = inputs.config.training, inputs.reporter
    ranks = training.ranks
    loaded = _newest(inputs.checkpoints, ranks) if spec.checkpoint.resume is Resume.AUTO else None
    state = TrainState(micro_batch_size=spec.micro_batch_size or 1)
    if loaded is not None:
        restore(loaded.tensors, training.judge.model, training.optimizer, ranks)
        state = TrainState.from_json(loaded.state)
        reporter.say(f"going on from the checkpoint of step {loaded.step}")
    reporter.back_to(state.step, state.evaluations, state.best)
    reporter.update(from_step=state.step)
    if training.debug is not None:
        training.debug.start(state.step)
    return state


def _newest(checkpoints: Checkpoints, ranks: "Ranks") -> Loaded | None:
    """The newest whole checkpoint, as rank 0 found it."""
    loaded = checkpoints.newest() if ranks.first else None
    step = ranks.decided(loaded.step if loaded else None)
    return loaded if loaded or step is None else checkpoints.load(step)


def train_and_tell(inputs: Inputs, training: "Run", state: TrainState) -> None:
    """Run the loop, and note how it ended."""
    from finetune_trainer.loop import train
    from finetune_trainer.noting import padding

    train(training, state)
    reporter, stopping = inputs.reporter, inputs.config.training.early_stopping
    effective = reporter.report.effective
    if effective is not None:
        reporter.update(effective=effective.model_copy(update={"micro_batch_size": state.micro_batch_size}))
    reporter.say(
        f"training ended at step {state.step}; {100 * padding(state):.1f} % of the computed positions were padding"
    )
    if stopping and state.patience.exhausted(stopping) and state.step < training.total_steps:
        best = "none" if state.patience.best is None else f"{state.patience.best:g}"
        reason = (
            f"{stopping.metric} did not improve by more than {stopping.min_delta:g}"
            f" in {stopping.patience} evaluations (best {best})"
        )
        early = EarlyStoppedStatus(step=state.step, metric=stopping.metric or "eval_loss", reason=reason)
        reporter.update(early_stopped=early)
        reporter.say(f"stopped early at step {state.step} of {training.total_steps}: {reason}")


def _refused(state: TrainState) -> str:
    return f"; {state.nonfinite} times a step was not finite" if state.nonfinite else ""


def final_metrics(inputs: Inputs, training: "Run", state: TrainState, test: Any) -> Metrics:
    """Metrics of the weights that are recorded: eval_ of their evaluation, test_ measured now, once."""
    from finetune_trainer.evaluate import EVALUATION_FACTOR, defined
    from finetune_trainer.snapshot import restore_model

    step, stopping = state.step, inputs.config.training.early_stopping
    if stopping and stopping.restore_best and state.best and state.best.step != step:
        step = training.ranks.decided(_best_step(inputs, state.best.step, step))
        if step != state.step:
            restore_model(inputs.checkpoints.load(step).tensors["model"], training.judge.model)
    chosen = next((e for e in reversed(state.evaluations) if e.step == step), state.evaluations[-1])
    metrics = {"eval_loss": chosen.eval_loss, **{f"eval_{name}": v for name, v in chosen.metrics.items()}}
    if test is not None:
        scores = training.judge.evaluate(test, state.micro_batch_size * EVALUATION_FACTOR)
        if scores is None:
            raise _stopped(inputs.stop)
        names = ["loss", *(plain(name) for name in inputs.config.training.evaluation.metrics or [])]
        numbers, _ = defined(scores, list(dict.fromkeys(names)))
        metrics |= {f"test_{name}": short(value) for name, value in numbers.items()}
    return {name: value for name, value in metrics.items() if value is not None}


def _best_step(inputs: Inputs, best: int, last: int) -> int:
    if inputs.checkpoints.has(best):
        inputs.reporter.say(f"the weights of step {best}, the best ones, are recorded")
        return best
    inputs.reporter.say(
        f"the checkpoint of step {best}, the best one, is lost or damaged: the last weights are recorded",
        level="warning",
    )
    return last


def publish_model(inputs: Inputs, training: "Run", tokenizer: Any, metrics: Metrics) -> Any:
    """Publish the folder, then remove the checkpoints; a crash between the two is found by `published`."""
    from finetune_trainer.distributed import put_together

    reporter, checkpoints, ranks = inputs.reporter, inputs.checkpoints, training.ranks
    put_together(training.judge.model)
    if not ranks.first:
        return ranks.decided(None)
    assert reporter.history is not None
    checkpoints.assert_owner()
    training.judge.objective.finish(training.judge.model)
    looks = training.debug.folder if training.debug else None
    trained = Trained(training.judge.model, tokenizer, metrics, reporter.history, looks)
    model = publish(inputs.config, trained, reporter.report)
    reporter.history = None
    _clear(checkpoints, inputs.config)
    reporter.say(f"the model is in {model.uri} ({model.files} files, {model.size_bytes} bytes)")
    return ranks.decided(model)


def _stop_if_asked(stop: Stop) -> None:
    if stop.requested:
        raise _stopped(stop)


def _stopped(stop: Stop) -> StoppedError:
    return StoppedError(f"stopped by {stop.signal_name}; what was trained so far is saved")
