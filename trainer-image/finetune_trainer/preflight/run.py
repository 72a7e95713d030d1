"""One preflight from PreflightConfig to RunReport.

It does what the first minutes of the run would do, in the same order and with the same code, but for the weights: these
are neither read nor allocated. What needs no torch comes first, as in `training/run.py`."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune_api.model import Initialize
from finetune_api.preflight import PreflightConfig
from finetune_api.run import RunConfig, RunReport
from finetune_api.status import PreflightFindings, ResolvedStatus
from finetune_api.uris import is_hub
from finetune_trainer.errors import ConfigurationError, DataError, DeviceMemoryError, NotFoundError
from finetune_trainer.preflight.storage import check_writable
from finetune_trainer.process.launch import Process
from finetune_trainer.process.stop import Stop
from finetune_trainer.publishing.folder import published
from finetune_trainer.reporting.recorder import Recorder
from finetune_trainer.training.inputs import TOKENS, Inputs, fence_of, look_at_inputs

logger = logging.getLogger(__name__)


def check(config: PreflightConfig, recorder: Recorder, stop: Stop, threads: int) -> RunReport:
    """Check data, model, output and memory of a run; returns the final report.

    Raises the errors of finetune_trainer.errors, as the run itself would.
    """
    run = _placed(config)
    try:
        with _nothing_left_if_refused(run):
            return _checked(config, run, recorder, stop, threads)
    finally:
        shutil.rmtree(config.work_dir, ignore_errors=True)


def _checked(
    config: PreflightConfig, run: RunConfig, recorder: Recorder, stop: Stop, threads: int
) -> RunReport:
    if config.output_mounted:
        if done := published(run):
            message = f"the model is already published in {done.model and done.model.uri}"
            return recorder.report.model_copy(
                update={"message": message, "resolved": done.resolved, "preflight": PreflightFindings()}
            )
        check_writable(run)
    looked = look_at_inputs(run, recorder, stop)
    inputs = Inputs(
        looked.config, recorder, stop, Process.current(), looked.dataset, looked.folder, fence_of(run), ""
    )
    from finetune_trainer.preflight.examine import examine

    findings, message = examine(config, inputs, threads)
    recorder.update(resolved=_as_known(config, recorder.report.resolved))
    return recorder.report.model_copy(update={"message": message, "preflight": findings, "notes": []})


def _placed(config: PreflightConfig) -> RunConfig:
    """The run with folders that are there: without the output claim all are scratch, and weights are not fetched."""
    if config.output_mounted:
        return config.run
    scratch, output, model = Path(config.work_dir), config.run.output, config.run.model
    folders = {
        "checkpoint_dir": str(scratch / "checkpoints"),
        "hub_dir": str(scratch / "hub") if output.hub_dir else None,
        "token_dir": None,
    }
    if _fetches_weights(config):
        model = model.model_copy(update={"initialize": Initialize.RANDOM})
    return config.run.model_copy(update={"output": output.model_copy(update=folders), "model": model})


def _fetches_weights(config: PreflightConfig) -> bool:
    """Whether the weights would be downloaded for nothing: the run could not use them."""
    return not config.output_mounted and is_hub(config.run.model.uri)


def _as_known(config: PreflightConfig, resolved: ResolvedStatus | None) -> ResolvedStatus | None:
    """Without the digest of a model whose weights were not read."""
    if resolved is None or resolved.model is None or not _fetches_weights(config):
        return resolved
    return resolved.model_copy(update={"model": resolved.model.model_copy(update={"digest": None})})


@contextmanager
def _nothing_left_if_refused(run: RunConfig) -> Iterator[None]:
    """Remove the tokens of a run that will not take place."""
    try:
        yield
    except (ConfigurationError, DataError, NotFoundError, DeviceMemoryError):
        folder = Path(run.output.checkpoint_dir)
        for path in (folder / TOKENS, *map(Path, filter(None, [run.output.token_dir]))):
            shutil.rmtree(path, ignore_errors=True)
        _remove_empty(folder)
        raise


def _remove_empty(folder: Path) -> None:
    for path in (folder, folder.parent, folder.parent.parent):
        try:
            path.rmdir()
        except OSError:
            return
