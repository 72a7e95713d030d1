"""What a run reads and checks before torch is needed: configuration, data, the model's folder, the checkpoints.

Beside the checkpoints lies, while the run lasts:
tokens/  reference/  debug/  metrics.jsonl  reached.json  baseline.npz  forgetting.json  samples.json
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from finetune_api.run import RunConfig
from finetune_api.status import ResolvedStatus
from finetune_trainer.checkpoints.fence import Fence
from finetune_trainer.checkpoints.folder import remove_all
from finetune_trainer.config import fingerprint
from finetune_trainer.data.dataset import Dataset, read_dataset
from finetune_trainer.errors import PrunedError
from finetune_trainer.hub.fetch import fetch
from finetune_trainer.models.adapter_folder import check_model
from finetune_trainer.models.adapters import check_adapter
from finetune_trainer.models.folder import ModelFolder
from finetune_trainer.models.heads import check_head
from finetune_trainer.objectives import OBJECTIVES
from finetune_trainer.process.environment import for_trackers
from finetune_trainer.process.launch import Process
from finetune_trainer.process.stop import Stop
from finetune_trainer.publishing.folder import clear_beside
from finetune_trainer.reporting.history import HISTORY
from finetune_trainer.reporting.reached import REACHED, Reached
from finetune_trainer.reporting.recorder import Recorder
from finetune_trainer.reporting.tensorboard import history_of
from finetune_trainer.training.base_model import find_base
from finetune_trainer.training.chat import check_conversations

TOKENS, REFERENCE, DEBUG_DIR = "tokens", "reference", "debug"
BASELINE, FORGETTING, SAMPLES = "baseline.npz", "forgetting.json", "samples.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """What was read and checked before torch is needed."""

    config: RunConfig
    recorder: Recorder
    stop: Stop
    process: Process
    dataset: Dataset
    folder: ModelFolder
    fence: Fence
    """Of the folder with the checkpoints."""
    fingerprint: str
    """Of all that decides the weights."""


@dataclass(frozen=True)
class Looked:
    """What was read and checked, without anything being claimed or written but downloads."""

    config: RunConfig
    """With local paths and commits."""
    folder: ModelFolder
    dataset: Dataset
    template: str | None
    """Digest of the chat template, where rows are conversations."""


def look_at_inputs(config: RunConfig, recorder: Recorder, stop: Stop) -> Looked:
    """Fetch what is on the Hub, look at the model's folder and read the data; status.resolved says what was found."""
    config = fetch(config, recorder, stop)
    check_head(config.model.head, by_row=not OBJECTIVES[config.objective.kind].per_token)
    folder = check_model(config.model, partial(find_base, config=config, stop=stop))
    check_adapter(config.model, on_adapter=folder.adapter is not None)
    dataset = read_dataset(config, recorder, lambda: stop_if_asked(stop))
    template = check_conversations(config, folder, dataset, recorder)
    tokenizer = folder.tokenizer_resolved(config.model)
    resolved = ResolvedStatus(model=folder.resolved, tokenizer=tokenizer, **dataset.resolved)
    recorder.update(resolved=resolved)
    return Looked(config, folder, dataset, template)


def read_inputs(config: RunConfig, recorder: Recorder, stop: Stop, process: Process) -> Inputs:
    """`look_at_inputs`, and claim the checkpoints."""
    looked = look_at_inputs(config, recorder, stop)
    config, folder, dataset = looked.config, looked.folder, looked.dataset
    fence = fence_of(config)
    if process.rank == 0:
        fence.claim()
    digests: dict[str, str | None] = {name: part.digest for name, part in dataset.resolved.items()}
    digests |= {"chatTemplate": looked.template} if looked.template else {}
    digests |= {"model": folder.resolved.digest, "tokenizer": folder.tokenizer_digest}
    if process.rank == 0:
        if said := for_trackers(os.environ):
            logger.warning(said)
        debug = config.training.debug
        board = fence.folder / DEBUG_DIR / "tensorboard" if debug and debug.tensor_board else None
        recorder.open_history(history_of(fence.folder / HISTORY, board))
        recorder.reached = Reached(fence.folder / REACHED, fence.attempt)
    stop_if_asked(stop)
    return Inputs(config, recorder, stop, process, dataset, folder, fence, fingerprint(config, digests))


def fence_of(config: RunConfig) -> Fence:
    return Fence(Path(config.output.checkpoint_dir), config.job.attempt)


def clear(fence: Fence, config: RunConfig) -> None:
    """Remove the checkpoints, and what else of this job lies beside them."""
    remove_all(fence, beside=(TOKENS, REFERENCE, DEBUG_DIR, HISTORY, REACHED, BASELINE, FORGETTING, SAMPLES))
    clear_beside(fence.folder, config)


def clear_all(config: RunConfig) -> None:
    """`clear` what other attempts left, and this one."""
    fence = fence_of(config)
    fence.claim()
    clear(fence, config)


@contextmanager
def nothing_left_if_pruned(config: RunConfig, process: Process) -> Iterator[None]:
    """Remove the checkpoints of a pruned trial, those of earlier attempts too: it is not resumed."""
    try:
        yield
    except PrunedError:
        if process.rank == 0:
            clear_all(config)
        raise


def stop_if_asked(stop: Stop, when: str = " before this attempt took a step") -> None:
    if stop.requested:
        raise stop.to_error(when)
