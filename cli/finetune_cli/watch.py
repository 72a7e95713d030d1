"""Follows a FineTuneJob: a progress bar on a terminal, otherwise one line per change."""

import math
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from finetune_api import GROUP, PLURAL, VERSION

Status = dict[str, Any]

_POLL_SECONDS = 1.0
_TIMEOUT_SECONDS = 30.0
_PATIENCE_SECONDS = 300.0
"""How long to retry an API server that does not respond; training continues without us."""
_EPOCH = "  step {step:>6}  epoch {epoch:>5.2f}  train loss {train}  eval loss {eval}  {metrics}"


def current_namespace() -> str:
    """The namespace of the current kubeconfig context, as in kubectl; `default` if it has none."""
    from kubernetes import config

    try:
        _, active = config.list_kube_config_contexts()
    except config.ConfigException:
        return "default"
    return str(active["context"].get("namespace") or "default")


def follow(name: str, namespace: str, console: Console | None = None, limit: float = math.inf) -> int:
    """Follow a job to its end: 0 succeeded, 1 failed, 2 not found, 3 timed out after `limit` seconds."""
    console = console or Console(soft_wrap=True, highlight=False)
    columns = (
        TextColumn("[bold]{task.fields[phase]:<9}"),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
    )
    view = Progress(*columns, console=console, disable=not console.is_terminal, transient=False)
    with view:
        return _follow(name, namespace, console, view, time.monotonic() + limit)


def _follow(name: str, namespace: str, console: Console, view: Progress, deadline: float) -> int:
    task = view.add_task("", total=100, phase="Pending", detail="")
    seen_steps: set[int] = set()
    said, tenth = "", 0
    for status in _statuses(name, namespace):
        if status is None:
            console.print(f"[red]FineTuneJob {name} not found in namespace {namespace}")
            return 2
        if (message := _message(status)) != said:
            phase = status.get("phase", "Pending")
            console.print(f"[dim]{time.strftime('%H:%M:%S')}[/] {phase}: {escape(message)}")
            said = message
        _print_epochs(status, seen_steps, console)
        if not console.is_terminal and (now := _tenth(status)) > tenth:
            console.print(f"  {10 * now:>3}%  {_detail(status)}", markup=False)
            tenth = now
        _update(view, task, status)
        if _is(status, "Finished"):
            return 0 if _is(status, "Complete") else 1
        if time.monotonic() > deadline:
            return 3
    raise AssertionError("the stream of statuses never ends")


def _statuses(name: str, namespace: str) -> Iterator[Status | None]:
    """Polls the job's status; None if the job does not exist. Raises errors that persist for minutes."""
    from kubernetes import client, config
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    config.load_config()
    api = client.CustomObjectsApi()
    answered = time.monotonic()
    while True:
        try:
            body = api.get_namespaced_custom_object(
                GROUP, VERSION, namespace, PLURAL, name, _request_timeout=_TIMEOUT_SECONDS
            )
        except (ApiException, HTTPError) as error:
            status = getattr(error, "status", None)
            if status == 404:
                yield None
                return
            refused = status is not None and 400 <= status < 500 and status != 429
            if refused or time.monotonic() - answered > _PATIENCE_SECONDS:
                raise
        else:
            answered = time.monotonic()
            yield body.get("status") or {}
        time.sleep(_POLL_SECONDS)


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
    done = 100 if _is(status, "Complete") else percent
    view.update(task, completed=done, phase=status.get("phase") or "Pending", detail=_detail(status))


def _number(value: float | None) -> str:
    return "   –  " if value is None else f"{value:.4f}"


def _is(status: Status, kind: str) -> bool:
    return any(c["type"] == kind and c["status"] == "True" for c in status.get("conditions") or [])
