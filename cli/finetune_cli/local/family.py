"""The life of a search or an ensemble on this machine: one run after the other, then its own attempt."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from finetune_api.status import FineTuneJobStatus, Phase
from finetune_cli.local.life import LocalLife, Say, Show, write_status
from finetune_cli.local.parents import history, next_step
from finetune_cli.local.planning import Folders, folders_of_runs, planned_job, stored
from finetune_cli.local.trainer import now
from finetune_core.decide.decision import finished
from finetune_core.decide.parents import runs_children
from finetune_core.decide.size import shrink_to_limit
from finetune_core.plan.effective import Resolved
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.naming import Run, parent_in

Body = dict[str, Any]

RUNS = "runs"
"""In the parent's folder: a folder for each run."""


@dataclass
class FamilyLife:
    """Runs a parent to its end, or until it is asked to stop. `show` and `say` are those of LocalLife.

    `announce` is called with the name of each run before it trains.
    """

    body: Body
    job: FineTuneJob
    resolved: Resolved
    folders: Folders
    file: Path
    environment: dict[str, str]
    show: Show
    say: Say
    announce: Callable[[str], None]
    _bodies: dict[Run, Body] = field(default_factory=dict)
    _life: LocalLife | None = None
    _asked_to_stop: bool = False

    def __post_init__(self) -> None:
        for file in sorted(self.file.parent.glob(f"{RUNS}/*/{self.file.name}")):
            body = json.loads(file.read_text(encoding="utf-8"))
            if (found := parent_in(body["metadata"])) and found.uid == self.job.uid:
                self._bodies[found.run] = body

    def stop(self) -> None:
        """Suspend the job: the run that trains saves a checkpoint. The second time, end it at once."""
        self._asked_to_stop = True
        if self._life:
            self._life.stop()

    def run(self) -> FineTuneJobStatus:
        """The status at the end: finished or suspended."""
        while runs_children(self.job):
            if self._asked_to_stop:
                self.job = replace(self.job, spec=self.job.spec.model_copy(update={"suspend": True}))
            if not self._asked_to_stop and (unfinished := self._unfinished()):
                self._train(unfinished)
                continue
            step = next_step(self.job, self.resolved, self._bodies, now())
            self._write(shrink_to_limit(step.decision.status))
            if step.body is not None:
                self._train(stored(step.body, now()))
            elif step.decision.concludes:
                return self._conclude()
            elif self._asked_to_stop or self.job.status.phase is not Phase.RUNNING:
                return self.job.status
        return self.job.status if finished(self.job.status) else self._conclude()

    def _unfinished(self) -> Body | None:
        """A run that was stopped before its end."""
        open_runs = (
            body for body in self._bodies.values() if not body.get("status", {}).get("completionTime")
        )
        return next(open_runs, None)

    def _train(self, body: Body) -> None:
        found = parent_in(body["metadata"])
        assert found
        self.announce(body["metadata"]["name"])
        job, resolved = planned_job(body, self.resolved.resources.gpus_per_node or 0)
        file = self.file.parent / RUNS / found.run.suffix / self.file.name
        file.parent.mkdir(parents=True, exist_ok=True)
        folders = folders_of_runs(self.job, self.resolved, self.folders)
        life = LocalLife(body, job, resolved, folders, file, self.environment, self.show, self.say)
        self._bodies[found.run] = body | {"status": self._lived(life).to_json()}

    def _conclude(self) -> FineTuneJobStatus:
        """The parent's own attempt: the report of a search, the combination of an ensemble."""
        ended = history(self.job, self.resolved, self._bodies)
        own = (self.body, self.job, self.resolved, self.folders, self.file)
        return self._lived(LocalLife(*own, self.environment, self.show, self.say, ended))

    def _lived(self, life: LocalLife) -> FineTuneJobStatus:
        self._life = life
        if self._asked_to_stop:
            life.stop()
        return life.run()

    def _write(self, status: FineTuneJobStatus) -> None:
        self.job = replace(self.job, status=status)
        self.show(write_status(self.body, status, self.file)["status"])
