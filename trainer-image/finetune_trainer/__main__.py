"""Starts a run and ends with an exit code, a RunReport and a message.

The only broad `except` of the trainer is here, but for that of the plots of a search, without which it succeeds.
"""

import argparse
import faulthandler
import logging
import os
import sys
import textwrap
import traceback
from pathlib import Path
from typing import Any, NoReturn

from finetune_api.base import MESSAGE_LENGTH
from finetune_api.combine import CombineConfig
from finetune_api.overrides import read_assignment
from finetune_api.preflight import PreflightConfig
from finetune_api.run import ENDINGS, ExitCode, RunConfig, RunReport, to_message
from finetune_api.summary import SummaryConfig
from finetune_trainer.config import read_config, termination_log
from finetune_trainer.errors import TrainerError
from finetune_trainer.hub.fetch import at_one_commit, uses_hub
from finetune_trainer.process.allocator import keep_freed_memory
from finetune_trainer.process.environment import OFFLINE, QUIET
from finetune_trainer.process.kept_log import FOLDER
from finetune_trainer.process.launch import Node, Process, launch
from finetune_trainer.process.stop import Stop
from finetune_trainer.process.supervisor import Places, supervised
from finetune_trainer.process.threads import configure
from finetune_trainer.reporting.log import configure_logging
from finetune_trainer.reporting.recorder import Recorder

logger = logging.getLogger(__name__)

_CODES = " · ".join(f"{code:d} {ending.meaning}" for code, ending in ENDINGS.items())
HELP = f"""\
Fine-tunes a model with the configuration RUN.json, in a pod or on a laptop. A file of kind CombineConfig combines
several models into one; a file of kind SummaryConfig publishes the best model of a hyperparameter search with a report;
a file of kind PreflightConfig checks data, model, output and memory of a run without its devices.

RUN.json is a RunConfig (finetune.dev/v1alpha1). A minimal one:

  {{"job": {{"name": "sentiment"}},
   "model": {{"path": "models/minilm"}},
   "dataset": {{"train": {{"path": "data/train.jsonl"}}}},
   "objective": {{"classification": {{}}}},
   "output": {{"modelDir": "out/model", "stagingDir": "out/.staging", "checkpointDir": "out/.checkpoints"}}}}

{textwrap.fill(f"Exit codes: {_CODES}", 110)}
"""
TRACEBACK_CHARACTERS = 1900


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        usage = "python -m finetune_trainer RUN.json [--set PATH=VALUE …]"
        self.exit(ExitCode.CONFIGURATION, f"{message}; usage: {usage}\n")


def _assignment(text: str) -> tuple[str, Any]:
    try:
        return read_assignment(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def main(arguments: list[str] | None = None) -> int:
    """Run, and return the exit code."""
    parser = _Parser(
        "python -m finetune_trainer", description=HELP, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run_json", metavar="RUN.json", type=Path, help="the RunConfig")
    parser.add_argument(
        "--set",
        metavar="PATH=VALUE",
        type=_assignment,
        action="append",
        default=[],
        help="override a field, for example training.seed=2; repeatable",
    )
    given = parser.parse_args(arguments)
    path, overrides = given.run_json, dict(given.set)
    os.environ.update(QUIET)
    process = Process.current()
    configure_logging(quiet=process.rank > 0)
    stop, recorder = Stop(), Recorder()
    stop.listen()
    target = process.report or termination_log(path, overrides)
    code: int
    try:
        code, report = _run(path, overrides, process, recorder, stop)
    except TrainerError as error:
        code, report = error.code, _ended(recorder, error.message, place=error.place)
    except Exception as error:  # noqa: BLE001 - the border: everything else is a fault of ours
        message, trace = f"a bug in the trainer: {type(error).__name__}: {error}", traceback.format_exc()
        print(trace, file=sys.stderr)
        code, report = ExitCode.FAULT, _ended(recorder, message, traceback=trace[-TRACEBACK_CHARACTERS:])
    _answer(recorder, target, code, report)
    if process.report is None:
        ending = "done" if code == ExitCode.DONE else f"exit {code:d}"
        print(f"finetune_trainer: {ending}: {report.message}", file=sys.stderr)
    return code


def _run(
    path: Path, overrides: dict[str, Any], process: Process, recorder: Recorder, stop: Stop
) -> tuple[int, RunReport]:
    """The exit code and the final report."""
    config = read_config(path, overrides)
    if isinstance(config, SummaryConfig):
        return _summarize(config, recorder, stop)
    if isinstance(config, PreflightConfig):
        return _preflight(config, recorder, stop)
    os.environ.update({} if uses_hub(config) else OFFLINE)
    if process.report is None and not isinstance(config, CombineConfig):
        _places(config).tell()
    if isinstance(config, CombineConfig):
        return _combine(config, recorder, stop)
    if (config.devices.gpus > 1 or config.nodes) and process.report is None:
        node = Node.of(config.nodes)
        with at_one_commit(path, config, recorder, stop) as run_json:
            return launch(run_json, max(1, config.devices.gpus), stop, node)
    recorder.update(attempt=config.job.attempt)
    if process.rank == 0:
        recorder.connect(config, stop)
    threads = configure(processes=process.local_world_size)
    keep_freed_memory()
    from finetune_trainer.training.run import run

    return ExitCode.DONE, run(config, recorder, stop, process, threads)


def _places(config: RunConfig) -> Places:
    """Beside the checkpoints; the log where the report is read later, as of a pod."""
    own = Path(config.output.checkpoint_dir).absolute().parent
    attempt, report = config.job.attempt, config.termination_log
    rank = Node.of(config.nodes).rank
    name = f"attempt-{attempt}{f'-node-{rank}' if rank else ''}"
    log, stacks = own / FOLDER / f"{name}.log", own / f"stacks-{name}.txt"
    return Places(attempt, str(stacks), str(report) if report else None, str(log) if report else None)


def _combine(config: CombineConfig, recorder: Recorder, stop: Stop) -> tuple[int, RunReport]:
    recorder.update(attempt=config.job.attempt)
    recorder.connect(config, stop)
    threads = configure(processes=1)
    if config.student is not None:
        keep_freed_memory()
    from finetune_trainer.combine.run import combine

    return combine(config, recorder, stop, threads)


def _preflight(config: PreflightConfig, recorder: Recorder, stop: Stop) -> tuple[int, RunReport]:
    os.environ.update({} if uses_hub(config.run) else OFFLINE)
    threads = configure(processes=1)
    from finetune_trainer.preflight.run import check

    return ExitCode.DONE, check(config, recorder, stop, threads)


def _summarize(config: SummaryConfig, recorder: Recorder, stop: Stop) -> tuple[int, RunReport]:
    recorder.update(attempt=config.job.attempt)
    recorder.connect(config, stop)
    from finetune_trainer.summary.run import summarize

    return ExitCode.DONE, summarize(config, recorder, stop)


def _ended(recorder: Recorder, message: str, **parts: Any) -> RunReport:
    """What was recorded until an error ended the run."""
    return recorder.report.model_copy(update={"message": message, **parts})


def _answer(recorder: Recorder, target: Path | None, code: int, report: RunReport) -> None:
    """Leave the report where it is read; a code that is not of the contract (a killed process) is not part of it."""
    known = ExitCode(code) if code in list(ExitCode) else None
    final = report.model_copy(update={"exit_code": known, "message": report.message[:MESSAGE_LENGTH]})
    recorder.update(**dict(final))
    recorder.close()
    if target is not None:
        try:
            target.write_text(to_message(final))
        except OSError as error:
            logger.warning(f"cannot write the report to {target}: {error}")


def end(code: int) -> NoReturn:
    """End this process.

    One of several ends at once: threads of torch's exchange may abort a process that leaves in the ordinary way, as
    they hold Python objects while the interpreter goes (pytorch/pytorch#179291), and its code would be theirs.
    """
    if Process.launched():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    faulthandler.enable()
    end(main() if Process.launched() else supervised(main))
