"""A job as a tree: its attempts, and the trials, repetitions or members that it runs. Pure."""

from collections.abc import Iterable, Iterator, Sequence

from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from finetune_api.status import AttemptStatus, FineTuneJobStatus
from finetune_core.plan.naming import REPEAT, TRIAL, parent_in
from finetune_sdk import Job

_COLOURS = {"Succeeded": "green", "Failed": "red", "Running": "cyan", "Suspended": "yellow"}


def tree_of(job: Job, runs: Sequence[Job]) -> Tree:
    """The job with its attempts and runs, each run with its attempts; a repetition below the trial it repeats."""
    tree = Tree(_title(job))
    for line in _lines(job.status):
        tree.add(escape(line))
    for attempt in job.status.attempts:
        tree.add(_attempt(attempt))
    ordered = sorted(runs, key=lambda one: one.name)
    for run in ordered:
        if _label(run, REPEAT):
            continue
        branch = _run(tree, run)
        for repeat in ordered:
            if _label(repeat, REPEAT) and _label(repeat, TRIAL) == _label(run, TRIAL):
                _run(branch, repeat)
    return tree


def table_of(jobs: Iterable[Job]) -> Table:
    """The jobs of a namespace, without the runs of others, with the columns of kubectl get."""
    table = Table(box=None, pad_edge=False, header_style="")
    for column in ("NAME", "PHASE", "PROGRESS", "EPOCH", "LOSS", "BEST", "ETA", "MESSAGE"):
        table.add_column(column, no_wrap=column != "MESSAGE")
    for job in jobs:
        if parent_in(job.body["metadata"]) is None:
            display = job.status.display
            texts = (
                [display.progress, display.epoch, display.loss, display.best, display.eta]
                if display
                else [None] * 5
            )
            table.add_row(job.name, _phase(job), *[text or "" for text in texts], escape(job.message))
    return table


def _run(parent: Tree, run: Job) -> Tree:
    branch = parent.add(_title(run))
    for attempt in run.status.attempts:
        branch.add(_attempt(attempt))
    return branch


def _title(job: Job) -> str:
    return f"[bold]{job.name}[/] {_phase(job)} {escape(_facts(job.status))}{escape(job.message)}"


def _facts(status: FineTuneJobStatus) -> str:
    display = status.display
    parts = [display.progress, display.best] if display else []
    return "".join(f"{part}  " for part in parts if part)


def _lines(status: FineTuneJobStatus) -> Iterator[str]:
    """What else a person wants to know of the job."""
    if status.model:
        yield f"model {status.model.uri}" + (f" {status.model.digest}" if status.model.digest else "")
        metrics = "  ".join(f"{name} {value:.4g}" for name, value in sorted(status.model.metrics.items()))
        if metrics:
            yield metrics
    if trials := status.trials:
        counts = {
            "succeeded": trials.succeeded,
            "pruned": trials.pruned,
            "failed": trials.failed,
            "running": trials.running,
        }
        yield f"{trials.total} of {trials.planned} trials: " + ", ".join(
            f"{n} {what}" for what, n in counts.items() if n
        )


def _attempt(attempt: AttemptStatus) -> str:
    end = attempt.reason or ("runs" if attempt.end_time is None else "ended")
    code = f" (exit code {attempt.exit_code})" if attempt.exit_code else ""
    node = f" on {attempt.node}" if attempt.node else ""
    begin = "up to step" if attempt.from_step is None else f"steps {attempt.from_step} to"
    steps = "" if attempt.to_step is None else f", {begin} {attempt.to_step}"
    message = f": {attempt.message}" if attempt.message else ""
    return escape(f"attempt {attempt.number}: {end}{code}{node}{steps}{message}")


def _phase(job: Job) -> str:
    colour = _COLOURS.get(job.phase.value)
    return f"[{colour}]{job.phase.value}[/]" if colour else job.phase.value


def _label(job: Job, label: str) -> str:
    return str((job.body["metadata"].get("labels") or {}).get(label, ""))
