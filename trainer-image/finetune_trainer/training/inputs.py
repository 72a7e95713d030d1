"""What a run reads and checks before torch is needed: configuration, data, the model's folder, the checkpoints."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from finetune_api.combine import CombineConfig
from finetune_api.run import RunConfig
from finetune_api.status import ResolvedStatus
from finetune_trainer.checkpoints.store import Checkpoints
from finetune_trainer.config import fingerprint
from finetune_trainer.data.dataset import Dataset, read_dataset
from finetune_trainer.errors import PrunedError
from finetune_trainer.hub.fetch import fetch
from finetune_trainer.models.adapters import check_adapter
from finetune_trainer.models.folder import ModelFolder, check_folder
from finetune_trainer.models.heads import check_head
from finetune_trainer.objectives import OBJECTIVES
from finetune_trainer.process.launch import Process
from finetune_trainer.process.stop import Stop
from finetune_trainer.publishing.folder import clear_staging
from finetune_trainer.reporting.recorder import Recorder
from finetune_trainer.training.looks import history_of

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
    checkpoints: Checkpoints


def read_inputs(config: RunConfig, recorder: Recorder, stop: Stop, process: Process) -> Inputs:
    """Fetch what is on the Hub, look at the model's folder, read the data and claim the checkpoints."""
    config = fetch(config, recorder, stop)
    checkpoints = checkpoints_of(config)
    check_head(config.model.head, by_row=not OBJECTIVES[config.objective.kind].per_token)
    check_adapter(config.model)
    folder = check_folder(config.model)
    dataset = read_dataset(config, recorder, lambda: stop_if_asked(stop))
    if process.rank == 0:
        checkpoints.claim()
    found = dataset.resolved
    tokenizer = folder.tokenizer_resolved(config.model)
    recorder.update(resolved=ResolvedStatus(model=folder.resolved, tokenizer=tokenizer, **found))
    digests = {name: part.digest for name, part in found.items()}
    digests |= {"model": folder.resolved.digest, "tokenizer": folder.tokenizer_digest}
    checkpoints.fingerprint = fingerprint(config, digests)
    if process.rank == 0:
        recorder.open_history(history_of(config.training.debug, checkpoints.folder))
    stop_if_asked(stop)
    return Inputs(config, recorder, stop, process, dataset, folder, checkpoints)


def checkpoints_of(config: RunConfig) -> Checkpoints:
    return Checkpoints(
        Path(config.output.checkpoint_dir), config.job.attempt, config.training.checkpoint.keep
    )


def clear(checkpoints: Checkpoints, config: RunConfig) -> None:
    """Remove the checkpoints, and what else of this job lies beside them."""
    checkpoints.remove_all()
    clear_beside(checkpoints.folder, config)


def clear_beside(path: Path, config: RunConfig | CombineConfig) -> None:
    """Remove what was staged, downloads that lie beside a path, and the folder they are in if it is this job's own.

    A folder with something else in it stays.
    """
    own = path.parent
    staging = Path(config.output.staging_dir)
    clear_staging(staging)
    with suppress(OSError):
        staging.rmdir()
    if config.output.hub_dir and Path(config.output.hub_dir).parent == own:
        shutil.rmtree(config.output.hub_dir, ignore_errors=True)
    if own.name == config.job.uid:
        with suppress(OSError):
            own.rmdir()
            own.parent.rmdir()


def clear_all(config: RunConfig) -> None:
    """`clear` what other attempts left, and this one."""
    leftover = checkpoints_of(config)
    leftover.claim()
    clear(leftover, config)


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
        raise stop.error(when)
