"""Shows the life of a job: a progress bar on a terminal, otherwise one line per change."""

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

Status = dict[str, Any]

_EPOCH = "  step {step:>6}  epoch {epoch:>5.2f}  train loss {train}  eval loss {eval}  {metrics}"
_LOUD = ("warning", "error", "critical")


class View:
    """Prints what is new in each status; the bar is there while the context is open."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (
            TextColumn("[bold]{task.fields[phase]:<9}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
        )
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal, transient=False)
        self._task = self._bar.add_task("", total=100, phase="Pending", detail="")
        self._seen_steps: set[int] = set()
        self._said, self._tenth = "", 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, status: Status) -> None:
        """A status of the job."""
        console = self._console
        if (message := _message(status)) != self._said:
            phase = status.get("phase", "Pending")
            console.print(f"[dim]{time.strftime('%H:%M:%S')}[/] {phase}: {escape(message)}")
            self._said = message
        _print_epochs(status, self._seen_steps, console)
        if not console.is_terminal and (now := _tenth(status)) > self._tenth:
            console.print(f"  {10 * now:>3}%  {_detail(status)}", markup=False)
            self._tenth = now
        _update(self._bar, self._task, status)

    def next_run(self, name: str) -> None:
        """Another job is shown from now on: a run of a search or an ensemble."""
        self._console.print(f"── {name}", markup=False)
        self._seen_steps, self._tenth = set(), 0

    def log(self, record: dict[str, Any]) -> None:
        """A record of the trainer's log: warnings and errors are printed."""
        if record.get("level") in _LOUD:
            self._console.print(f"[yellow]{record['level']}[/]: {escape(str(record['message']))}")


def _message(status: Status) -> str:
    message: str = (status.get("display") or {}).get("message") or "waiting for the operator"
    return message


def _print_epochs(status: Status, seen: set[int], console: Console) -> None:
    for epoch in status.get("epochs") or []:
        if epoch["step"] in seen:
            continue
        seen.add(epoch["step"])
        metrics = "  ".join(f"{name} {value:.3f}" for name, value in (epoch.get("metrics") or {}).items())
        line = _EPOCH.format(
            step=epoch["step"],
            epoch=epoch["epoch"],
            train=_number(epoch.get("trainLoss")),
            eval=_number(epoch.get("evalLoss")),
            metrics=metrics,
        )
        console.print(line, markup=False)


def _tenth(status: Status) -> int:
    """Tenths of the steps done; each is one line when there is no terminal."""
    return int((status.get("progress") or {}).get("percent") or 0) // 10


def _detail(status: Status) -> str:
    display, progress = status.get("display") or {}, status.get("progress") or {}
    parts = [
        f"epoch {display['epoch']}" if display.get("epoch") else "",
        f"loss {display['loss']}" if display.get("loss") else "",
        f"best {display['best']}" if display.get("best") else "",
        f"{progress['tokensPerSecond']:.0f} tokens/s" if progress.get("tokensPerSecond") else "",
        f"ETA {display['eta']}" if display.get("eta") else "",
    ]
    return "  ".join(part for part in parts if part)


def _update(view: Progress, task: TaskID, status: Status) -> None:
    percent = (status.get("progress") or {}).get("percent") or 0
    done = 100 if holds(status, "Complete") else percent
    view.update(task, completed=done, phase=status.get("phase") or "Pending", detail=_detail(status))


def _number(value: float | None) -> str:
    return "   –  " if value is None else f"{value:.4f}"


def holds(status: Status, kind: str) -> bool:
    """Whether a condition is True."""
    return any(c["type"] == kind and c["status"] == "True" for c in status.get("conditions") or [])
