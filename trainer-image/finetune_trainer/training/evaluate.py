"""The evaluation step: score the validation rows, and decide what follows from it.

Which weights are the best so far and have to be saved, whether the rate falls, how long early stopping waits. With an
average of the weights both are scored on the same rows, and the better ones by bestMetric count for all of that."""

import logging
import math
import time

from finetune_api.metrics import improves, plain
from finetune_api.status import CheckpointStatus, EpochStatus, Weights
from finetune_trainer.data.tokens import Examples
from finetune_trainer.reporting.recorder import short
from finetune_trainer.training.comparison import Evaluation, better_of
from finetune_trainer.training.context import Run
from finetune_trainer.training.evaluator import EVALUATION_FACTOR, Predict, defined
from finetune_trainer.training.state import TrainState

logger = logging.getLogger(__name__)


def evaluation_step(run: Run, state: TrainState) -> bool:
    """Score the validation rows and update the state; True if the best weights so far have to be kept for the end."""
    began = time.perf_counter()
    evaluation = _evaluate(run, state)
    if evaluation is None:
        return False
    scores = evaluation.scores
    state.seconds += time.perf_counter() - began
    spec, stopping = run.training.evaluation, run.training.early_stopping
    improved = _add_evaluation(run, state, evaluation)
    _update_plateau(run, state, scores[plain(spec.best_metric)])
    if stopping is not None:
        metric = plain(stopping.metric or spec.best_metric)
        state.patience = state.patience.after(stopping, scores.get(metric))
        run.recorder.metrics.bad_evaluations.set(state.patience.bad_evaluations)
    run.recorder.evaluation(state.evaluations, state.best, improved=improved)
    return improved and stopping is not None and stopping.restore_best


def score_apart(
    run: Run, rows: Examples, while_doing: str, predict: Predict | None = None
) -> dict[str, float]:
    """Scores of rows before or after training. Raises StoppedError, whose message says what was being done."""
    size = (run.training.micro_batch_size or 1) * EVALUATION_FACTOR
    scores = run.evaluator.evaluate(rows, size, predict)
    if scores is None:
        raise run.stop.to_error(f" while {while_doing}")
    return scores


def _evaluate(run: Run, state: TrainState) -> Evaluation | None:
    """None if a stop was asked for meanwhile."""
    size, average = state.micro_batch_size * EVALUATION_FACTOR, run.average
    trained = run.evaluator.evaluate(run.validation, size)
    if trained is None:
        return None
    if average is None:
        return Evaluation(trained)
    if average.updates == 0:
        return Evaluation(trained, Weights.TRAINED)
    with average.swapped():
        averaged = run.evaluator.evaluate(run.validation, size)
    return None if averaged is None else better_of(run.training.evaluation.best_metric, trained, averaged)


def _update_plateau(run: Run, state: TrainState, value: float) -> None:
    spec = run.training.schedule.plateau
    if spec is None:
        return
    state.plateau = state.plateau.after(spec, run.training.evaluation.best_metric, value)
    if state.plateau.rate_factor != 1:
        state.rate_factor *= state.plateau.rate_factor
        logger.info(
            f"{run.training.evaluation.best_metric} did not improve in {spec.patience + 1} evaluations: the learning"
            f" rate is multiplied by {spec.factor:g}"
        )


def _add_evaluation(run: Run, state: TrainState, evaluation: Evaluation) -> bool:
    """Add an evaluation to the state; True if it is the best so far."""
    spec, key = run.training.evaluation, plain(run.training.evaluation.best_metric)
    wanted, scores = [plain(name) for name in spec.metrics or []], evaluation.scores
    numbers, undefined = defined(scores, list(dict.fromkeys(["loss", key, *wanted])))
    if undefined:
        logger.warning(f"not defined on these rows: {', '.join(undefined)}")
    numbers |= {name: value for name, value in evaluation.compared.items() if math.isfinite(value)}
    state.evaluations.append(
        EpochStatus(
            epoch=round(state.step / run.steps_per_epoch, 4),
            step=state.step,
            train_loss=short(state.train_loss),
            eval_loss=short(numbers.pop("loss", None)),
            metrics={name: short(value) or 0.0 for name, value in numbers.items()},
            weights=evaluation.weights,
            seconds=round(state.seconds - state.evaluated_seconds, 3),
        )
    )
    state.evaluated_step, state.evaluated_seconds = state.step, state.seconds
    state.loss_sum = state.weight = 0.0
    value = scores[key]
    if key in undefined or not improves(key, value, state.best.value if state.best else None):
        return False
    state.best = CheckpointStatus(
        step=state.step, metric=spec.best_metric, value=value, weights=evaluation.weights
    )
    return True
