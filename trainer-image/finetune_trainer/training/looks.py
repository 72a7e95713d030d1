"""Begins and ends what training.debug asks for."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.training import DebugSpec
from finetune_trainer.checkpoints.store import HISTORY, LOOKS
from finetune_trainer.reporting.history import History
from finetune_trainer.reporting.tensorboard import BoardHistory
from finetune_trainer.training.state import TrainState

if TYPE_CHECKING:
    from finetune_trainer.training.context import Run
    from finetune_trainer.training.debug import Debug

logger = logging.getLogger(__name__)


def history_of(spec: DebugSpec | None, checkpoints: Path) -> History:
    """metrics.jsonl beside the checkpoints, for TensorBoard too where that is asked for."""
    path = checkpoints / HISTORY
    if spec is not None and spec.tensor_board:
        return BoardHistory(path, checkpoints / LOOKS / "tensorboard")
    return History(path)


def debug_of(spec: DebugSpec | None, model: Any, checkpoints: Path) -> "Debug | None":
    """The looks at a model; None where none are asked for."""
    if spec is None:
        return None
    from finetune_trainer.training.debug import Debug

    return Debug(spec, model, checkpoints / LOOKS)


def finish(run: "Run", state: TrainState) -> str:
    """End the looks, and say what they showed; returns it for the final message."""
    recorder = run.recorder
    if run.debug is None or recorder.history is None:
        return ""
    found = run.debug.finish(state.step, recorder.history.entries())
    for sentence in found:
        logger.warning(sentence)
    return "".join(f"; {sentence}" for sentence in found)
