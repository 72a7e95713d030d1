"""What `finetune local` checks before the trainer starts, and what it prints at the end."""

import fcntl
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.run import ExitCode
from finetune_api.status import FineTuneJobStatus, Phase
from finetune_cli.errors import CommandError
from finetune_cli.files import only_job
from finetune_cli.follow import View
from finetune_cli.local.family import FamilyLife
from finetune_cli.local.life import LocalLife
from finetune_cli.local.parents import lacks
from finetune_cli.local.planning import Folders, missing_folders, model_folder, planned_job, stored, unfit
from finetune_cli.local.trainer import TRAINER, now
from finetune_core.decide.decision import finished
from finetune_core.plan.reading import status_of

Body = dict[str, Any]

STATUS = "job.json"
"""In the output folder: the FineTuneJob with its status."""
_DEVICES = Path("/dev")


def run_locally(
    file: Path,
    claims: dict[str, Path],
    config_maps: dict[str, Path],
    output: Path | None,
    gpus: int | None,
    console: Console,
) -> tuple[int, Body]:
    """Train the job of a file: the trainer's exit code, and the FineTuneJob with its status. Raises CommandError.

    The status has the URIs of a cluster; a line at the end says which folder the model is in.
    """
    written = only_job(file)
    folders = Folders(claims, config_maps, output or Path("out") / written["metadata"]["name"])
    view = View(console)
    life = _life(written, folders, gpus, view, console)
    job, resolved = life.job, life.resolved
    try:
        folders.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(
            f"{folders.output}: {error.strerror}; choose another --output-dir", ExitCode.NOT_FOUND
        ) from error
    with _alone(folders.output), view, _interruptible(life):
        status = life.run()
    if status.model:
        place = model_folder(job, resolved, folders)
        figures = ", ".join(f"{name} {value:.4f}" for name, value in sorted(status.model.metrics.items()))
        console.print(f"model: {place}\n{figures}", markup=False)
    return _ending(status), life.body | {"status": status.to_json()}


def _life(
    written: Body, folders: Folders, gpus: int | None, view: View, console: Console
) -> LocalLife | FamilyLife:
    """The life of a valid job, before it begins. Raises CommandError for what this machine lacks."""
    spec = FineTuneJobSpec.from_json(written["spec"])
    if why := unfit(spec):
        raise CommandError(why, ExitCode.CONFIGURATION)
    if find_spec(TRAINER) is None:
        raise CommandError(
            "the trainer is not installed here; in a clone of the project: pip install '.[cli,trainer]'"
        )
    file = folders.output / STATUS
    body = _again(_ours(stored(written, now()), file), spec, folders.output, console)
    job, resolved = planned_job(body, _gpus(spec, gpus, console))
    job = replace(job, spec=job.spec.model_copy(update={"suspend": False}))
    if job.is_parent and (lacking := lacks(job)):
        raise CommandError(lacking)
    if missing := list(missing_folders(job, folders)):
        raise CommandError(
            f"the job reads or writes volumes that have no folder here; add {' '.join(missing)}",
            ExitCode.NOT_FOUND,
        )
    if spec.suspend:
        console.print("spec.suspend: true keeps a job waiting in a cluster; here it trains now")
    if spec.resources and (spec.resources.nodes or 1) > 1:
        console.print(
            f"the job asks for {spec.resources.nodes} nodes, and this machine is one: the updates are the same"
        )
    if spec.search and spec.search.pruner:
        console.print(
            "spec.search.pruner: no trial is pruned here; trials train one after the other, to their end"
        )
    own = (body, job, resolved, folders, file, _environment(spec), view.show, view.log)
    return FamilyLife(*own, view.next_run) if job.is_parent else LocalLife(*own)


def _gpus(spec: FineTuneJobSpec, wanted: int | None, console: Console) -> int:
    """GPUs to train on: as the option says, else as the job says, or all of this machine where it has fewer.

    Raises CommandError for more than this machine has, and if the model is to be divided over GPUs that it lacks.
    """
    asked = spec.resources.gpus_per_node if spec.resources and spec.resources.gpus_per_node is not None else 1
    there = sum(1 for _ in _DEVICES.glob("nvidia[0-9]*"))
    has = "none" if not there else f"{there}"
    countable = not (_DEVICES / "dxg").exists()  # in WSL one file is there for all GPUs
    if wanted is not None and wanted > there and countable:
        remedy = f"set --gpus {there}" if there else "remove --gpus to train on the CPU"
        raise CommandError(f"--gpus {wanted}: this machine has {has}; {remedy}", ExitCode.NO_GPU)
    if wanted is not None or asked <= there:
        return asked if wanted is None else wanted
    if spec.training and (groups := spec.training.tensor_parallel) > 1 and (not there or there % groups):
        raise CommandError(
            f"spec.training.tensorParallel: {groups} divides the model over GPUs, and this machine has {has}; remove it"
            " to train here: the updates are the same",
            ExitCode.CONFIGURATION,
        )
    if spec.resources and spec.resources.gpus_per_node:
        on = f"on {there} GPU{'s' * (there > 1)}" if there else "on the CPU"
        console.print(
            f"the job asks for {asked} GPU{'s' * (asked > 1)}, and this machine has {has}: it trains {on}"
        )
    return there


def _ours(body: Body, file: Path) -> Body:
    """The job with the status that an earlier run left. Raises CommandError for that of another job."""
    if not file.exists():
        return body
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        uid = found["metadata"]["uid"]
    except (ValueError, KeyError, TypeError) as error:
        raise CommandError(
            f"{file}: not a FineTuneJob; choose another --output-dir", ExitCode.NOT_FOUND
        ) from error
    if uid != body["metadata"]["uid"]:
        raise CommandError(
            f"{file.parent} belongs to a job with another name or spec; choose another --output-dir, or remove it",
            ExitCode.NOT_FOUND,
        )
    return body | {"status": status_of(found).to_json()}


def _again(body: Body, spec: FineTuneJobSpec, folder: Path, console: Console) -> Body:
    """A job that has failed begins its next attempt: its data may have been fixed. Others that have ended are left."""
    status = status_of(body)
    if not finished(status):
        return body
    message = (status.display and status.display.message) or status.phase
    if status.phase is Phase.FAILED and not (spec.search or spec.ensemble):
        number = status.attempt or 0
        console.print(f"attempt {number} failed ({message}); attempt {number + 1} begins", markup=False)
        return body | {"status": FineTuneJobStatus(attempt=number).to_json()}
    console.print(
        f"{folder} has this job, which has ended: {message}. Nothing is trained; to train again, remove the folder or"
        " choose another --output-dir",
        markup=False,
    )
    return body


def _environment(spec: FineTuneJobSpec) -> dict[str, str]:
    """The job's variables. One from a Secret has to be set in the shell."""
    for variable in spec.env or []:
        if variable.value is None and variable.name not in os.environ:
            raise CommandError(
                f"spec.env: {variable.name} comes from a Secret, which is not here; set {variable.name} in your shell",
                ExitCode.CONFIGURATION,
            )
    return {variable.name: variable.value for variable in spec.env or [] if variable.value is not None}


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder. Raises CommandError while another process holds it.

    A file system without locks, as NFS may be, holds nobody off; only the newest attempt writes checkpoints then.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CommandError(
                f"another finetune local trains in {folder}; wait for its end, or choose another --output-dir"
            ) from error
        except OSError:
            pass
        yield
    finally:
        os.close(handle)


class _interruptible:  # noqa: N801 - a context manager, used as a function
    """Ctrl-C, SIGTERM and the end of the terminal save a checkpoint; the second one ends at once."""

    def __init__(self, life: LocalLife | FamilyLife) -> None:
        self._life = life

    def __enter__(self) -> None:
        under_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        numbers = [signal.SIGINT, signal.SIGTERM, *([] if under_nohup else [signal.SIGHUP])]
        self._before = {number: signal.signal(number, self._stop) for number in numbers}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._life.stop()


def _ending(status: FineTuneJobStatus) -> int:
    """The trainer's exit code: of success, of a stop, or of the last attempt."""
    if status.phase == "Suspended":
        return ExitCode.INTERRUPTED
    last = status.attempts[-1] if status.attempts else None
    if status.model is not None:
        return ExitCode.DONE
    return (last and last.exit_code) or 1
