"""Starts a run and answers with an exit code, a RunReport and a sentence.

The only broad `except` of the trainer is here.
"""

import argparse
import os
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from finetune_api.combine import CombineConfig
from finetune_api.overrides import read_assignment
from finetune_api.run import ExitCode, RunReport, to_message
from finetune_trainer.config import read_config, termination_log
from finetune_trainer.errors import PeerLostError, TrainerError
from finetune_trainer.hub.fetch import at_one_commit, uses_hub
from finetune_trainer.process.allocator import keep_freed_memory
from finetune_trainer.process.launch import PEER_LOST, Process, launch
from finetune_trainer.process.stop import Stop
from finetune_trainer.process.threads import configure
from finetune_trainer.reporting.reporter import Reporter

HELP = """\
Fine-tunes a model as RUN.json says: the same in a pod and on a laptop. A file of kind CombineConfig makes one model
of several.

RUN.json is a RunConfig (finetune.dev/v1alpha1); a small one:

  {"job": {"name": "sentiment"},
   "model": {"path": "models/minilm"},
   "dataset": {"train": {"path": "data/train.jsonl"}},
   "objective": {"classification": {}},
   "output": {"modelDir": "out/model", "stagingDir": "out/.staging", "checkpointDir": "out/.checkpoints"}}

Exit codes: 0 done · 64 configuration · 65 data · 66 not found · 69 GPUs not seen · 70 fault of the trainer ·
71 out of device memory · 72 diverged · 74 storage · 75 stopped, checkpoint saved · 77 pruned
"""
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
TRACEBACK_CHARACTERS = 1900


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        usage = "python -m finetune_trainer RUN.json [--set PATH=VALUE …]"
        self.exit(ExitCode.CONFIGURATION, f"{message}; write: {usage}\n")


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
        help="another value for a field, such as training.seed=2; may be repeated",
    )
    given = parser.parse_args(arguments)
    path, overrides = given.run_json, dict(given.set)
    os.environ.update(QUIET)
    process = Process.current()
    stop, reporter = Stop(), Reporter(quiet=process.rank > 0)
    stop.listen()
    target = process.report or termination_log(path, overrides)
    code: int
    try:
        code = _run(path, overrides, process, reporter, stop)
        message = reporter.report.message
    except PeerLostError as error:
        code, message = PEER_LOST, str(error)
    except TrainerError as error:
        code, message = error.code, error.message
        reporter.report = reporter.report.model_copy(update={"place": error.place})
    except Exception as error:  # noqa: BLE001 - the border: everything else is a fault of ours
        code, message = ExitCode.FAULT, f"a fault of the trainer: {type(error).__name__}: {error}"
        told = traceback.format_exc()
        print(told, file=sys.stderr)
        reporter.report = reporter.report.model_copy(update={"traceback": told[-TRACEBACK_CHARACTERS:]})
    _answer(reporter, target, code, message)
    if process.report is None:
        ending = "done" if code == ExitCode.DONE else f"exit {code:d}"
        print(f"finetune_trainer: {ending}: {message}", file=sys.stderr)
    return code


def _run(path: Path, overrides: dict[str, Any], process: Process, reporter: Reporter, stop: Stop) -> int:
    config = read_config(path, overrides)
    os.environ.update({} if uses_hub(config) else OFFLINE)
    if isinstance(config, CombineConfig):
        return _combine(config, reporter, stop)
    if config.devices.gpus > 1 and process.report is None:
        with at_one_commit(path, config, reporter, stop) as run_json:
            code, reporter.report = launch(run_json, config.devices.gpus, stop)
        return code
    reporter.report = RunReport(attempt=config.job.attempt)
    reporter.connect(config, stop)
    threads = configure(processes=process.world)
    keep_freed_memory()
    from finetune_trainer.training.run import run

    reporter.report = run(config, reporter, stop, process, threads)
    return ExitCode.DONE


def _combine(config: CombineConfig, reporter: Reporter, stop: Stop) -> int:
    reporter.report = RunReport(attempt=config.job.attempt)
    reporter.connect(config, stop)
    threads = configure(processes=1)
    from finetune_trainer.combine.run import combine

    reporter.report = combine(config, reporter, stop, threads)
    return ExitCode.DONE


def _answer(reporter: Reporter, target: Path | None, code: int, message: str) -> None:
    """Leave the report where it is read; a code that is not of the contract (a killed process) is not part of it."""
    known = ExitCode(code) if code in list(ExitCode) else None
    final = reporter.report.model_copy(update={"exit_code": known, "message": message[:1024]})
    reporter.update(**dict(final))
    reporter.close()
    if target is not None:
        try:
            target.write_text(to_message(final))
        except OSError as error:
            reporter.say(f"the report could not be written to {target}: {error}", level="warning")


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
    end(main())
