"""One run from RunConfig to RunReport.

What needs no torch comes first, so that a mistake in the input is answered within a second or two: torch is imported
with `pipeline`, once the inputs are checked."""

import logging

from finetune_api.run import RunConfig, RunReport
from finetune_trainer.process.launch import Process
from finetune_trainer.process.stop import Stop
from finetune_trainer.publishing.folder import published
from finetune_trainer.reporting.recorder import Recorder
from finetune_trainer.training.inputs import clear_all, nothing_left_if_pruned, read_inputs

logger = logging.getLogger(__name__)


def run(config: RunConfig, recorder: Recorder, stop: Stop, process: Process, threads: int) -> RunReport:
    """Train and publish a model, or find that an earlier attempt already did; returns the final report.

    Every process of a run does the same; the first alone writes. Raises the errors of finetune_trainer.errors.
    """
    done = published(config)
    if done is None:
        with nothing_left_if_pruned(config, process):
            inputs = read_inputs(config, recorder, stop, process)
            from finetune_trainer.training.pipeline import train_and_publish

            return train_and_publish(inputs, threads)
    if process.rank == 0:
        logger.info(f"the model is already published in {done.model and done.model.uri}; nothing to train")
        clear_all(config)
    return done
