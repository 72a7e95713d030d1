"""The life of a job on this machine: the operator's decisions, with a process in the place of each attempt's pod."""

import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune_api.search_history import SearchHistory
from finetune_api.status import FineTuneJobStatus, Phase
from finetune_cli.local.planning import Folders, local_config, settings_for
from finetune_cli.local.report import LogReader
from finetune_cli.local.trainer import Trainer, now
from finetune_core.decide.actions import Action
from finetune_core.decide.decision import decide, finished
from finetune_core.decide.observation import JobView, Observation, PodView
from finetune_core.decide.size import shrink_to_limit
from finetune_core.plan.effective import Resolved
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.naming import attempt_name

Body = dict[str, Any]
Show = Callable[[Body], None]
Say = Callable[[Body], None]

_TICK = 0.2


@dataclass
class LocalLife:
    """Runs a job to its end, or until it is asked to stop; the status is written to `file` with every change.

    `show` gets each new status, `say` each record of the trainer's log.
    """

    body: Body
    job: FineTuneJob
    resolved: Resolved
    folders: Folders
    file: Path
    environment: dict[str, str]
    show: Show
    say: Say
    history: SearchHistory | None = None
    """Of a search that has ended, for its report."""

    def __post_init__(self) -> None:
        self._settings = settings_for(self.resolved.resources.gpus_per_node or 0)
        self._trainer: Trainer | None = None
        self._reader: LogReader | None = None
        self._asked_to_stop = False

    def stop(self) -> None:
        """Suspend the job: its trainer saves a checkpoint. The second time, end the trainer at once.

        May be called by a signal handler at any moment.
        """
        self._asked_to_stop = True
        if self._trainer and self._trainer.stopped:
            self._trainer.stop()

    def run(self) -> FineTuneJobStatus:
        """The status at the end: finished or suspended. No trainer goes on behind an error, such as a closed pipe."""
        try:
            return self._lived()
        finally:
            if self._trainer:
                self._trainer.leave()

    def _lived(self) -> FineTuneJobStatus:
        while not self._at_rest():
            self._read_log()
            if self._asked_to_stop and not self.job.spec.suspend:
                self.job = replace(self.job, spec=self.job.spec.model_copy(update={"suspend": True}))
            decision = decide(self.job, self.resolved, self._observed(), now(), self._settings)
            self._write(shrink_to_limit(decision.status))
            if decision.action is Action.CREATE_ATTEMPT and self._trainer is None:
                self._start(decision.status.attempt or 1)
            elif decision.action is Action.STOP_ATTEMPT and self._trainer and not self._trainer.stopped:
                self._trainer.stop()
            if self._trainer and _closed(decision.status):
                self._trainer = self._reader = None
        return self.job.status

    def _at_rest(self) -> bool:
        status = self.job.status
        return finished(status) or (self.job.spec.suspend and status.phase is Phase.SUSPENDED)

    def _start(self, attempt: int) -> None:
        stem = self.file.parent / f"attempt-{attempt}"
        report, run_json = stem.with_suffix(".report.json"), stem.with_suffix(".run.json")
        config = local_config(self.job, self.resolved, attempt, self.folders, report, self.history)
        run_json.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        training = self.job.spec.resolved_training()
        assert training
        self._reader = LogReader(attempt, training.evaluation.best_metric)
        self._trainer = Trainer(run_json, stem.with_suffix(".log"), report, self.environment)

    def _read_log(self) -> None:
        if self._trainer is None or self._reader is None:
            time.sleep(_TICK if self.job.status.retry_time else 0)
            return
        for line in self._trainer.lines(_TICK):
            self.say(self._reader.read(line) or {"message": line.rstrip(), "level": "raw"})

    def _observed(self) -> Observation:
        """What an operator would see: the attempt's Job and its pod."""
        if self._trainer is None or self._reader is None:
            return Observation()
        number, end = self._reader.attempt, self._trainer.end()
        name = attempt_name(self.job, number)
        succeeded, failed = bool(end and end.exit_code == 0), bool(end and end.exit_code)
        phase = "Succeeded" if succeeded else "Failed" if failed else "Running"
        pod = PodView(name, number, phase, platform.node(), started=self._trainer.started, end=end)
        job = JobView(name, number, self.job.uid, succeeded=succeeded, failed=failed)
        return Observation((job,), (pod,), report=self._reader.report, report_time=now())

    def _write(self, status: FineTuneJobStatus) -> None:
        if status == self.job.status and self.file.exists():
            return
        self.job = replace(self.job, status=status)
        self.show(write_status(self.body, status, self.file)["status"])


def write_status(body: Body, status: FineTuneJobStatus, file: Path) -> Body:
    """Replace the file by the job with this status; returns it."""
    whole = body | {"status": status.to_json()}
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(file)
    return whole


def _closed(status: FineTuneJobStatus) -> bool:
    """Whether no attempt is open."""
    return not status.attempts or status.attempts[-1].end_time is not None
