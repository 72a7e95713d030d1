"""Replays a search on the table of `search_table`. Called by `search_gain`.

The operator's code decides everything: `decide_search`, `propose` and `why_pruned`. Only the training is looked up in
the table, on a simulated clock. Search number n has `search.seed` n, and all its trials the same `training.seed`, one
of the table's; a repetition has the next one, and after the last the first.
"""

import math
import sys
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / folder) for folder in ("api", "core", "operator", "tests")]

from bench.search_grid import EPOCHS, GRID, RATE, SEEDS, Curve, Table, Values  # noqa: E402
from finetune_api.finetunejob import FineTuneJobSpec  # noqa: E402
from finetune_api.resources import ResourcesSpec  # noqa: E402
from finetune_api.status import FineTuneJobStatus, ModelStatus, TrialState  # noqa: E402
from finetune_core.decide.decision import finished  # noqa: E402
from finetune_core.plan.effective import Resolved  # noqa: E402
from finetune_core.plan.finetunejob import FineTuneJob  # noqa: E402
from finetune_core.plan.naming import Run  # noqa: E402
from finetune_core.search.asha import why_pruned  # noqa: E402
from finetune_core.search.decision import Search, decide_search  # noqa: E402
from finetune_core.search.plan import reseeded  # noqa: E402
from finetune_core.search.samplers import propose  # noqa: E402
from finetune_core.search.trials import Evaluation, Repeat, Trial  # noqa: E402

METRIC = "accuracy"
TICKS = 100
"""The operator counts whole seconds; here each stands for a hundredth, so that little is rounded."""
MODEL = ModelStatus(uri="pvc://demo/out", format="safetensors")
T0 = datetime(2026, 1, 1, tzinfo=UTC)
LISTED = [{"path": path, "choice": choice} for path, choice in GRID.items()]
"""`search.parameters`: the grid."""
_STEP = math.sqrt(GRID[RATE][1] / GRID[RATE][0])
RANGED = [
    {"path": RATE, "logUniform": {"min": GRID[RATE][0] / _STEP, "max": GRID[RATE][-1] * _STEP}},
    *(parameter for parameter in LISTED if parameter["path"] != RATE),
]
"""The same with a range of learning rates; the table is read at the nearest one."""


def searching(number: int, search: dict[str, Any]) -> FineTuneJobSpec:
    """The spec of search `number`."""
    return FineTuneJobSpec.from_json(
        {
            "model": {"uri": "pvc://demo/model", "freeze": {"embeddings": True}},
            "dataset": {
                "train": {"uri": "pvc://demo/train.jsonl"},
                "validation": {"uri": "pvc://demo/validation.jsonl"},
            },
            "objective": {"classification": {}},
            "training": {
                "epochs": EPOCHS,
                "seed": SEEDS[number % len(SEEDS)],
                "evaluation": {"bestMetric": METRIC},
            },
            "search": {"parameters": LISTED, "seed": number} | search,
        }
    )


@dataclass
class Playing:
    """A trial or a repetition that follows its curve."""

    curve: Curve
    trial: Trial
    began: int

    @property
    def next_tick(self) -> int:
        """When its next evaluation is due."""
        return self.began + round(TICKS * self.curve.seconds[len(self.trial.evaluations)])

    def evaluate(self) -> None:
        """One epoch more; the last one ends it with its value, that of the published weights."""
        done = len(self.trial.evaluations)
        found = Evaluation(done + 1.0, self.curve.accuracy[done])
        self.trial = replace(self.trial, evaluations=(*self.trial.evaluations, found), value=found.value)

    def end(self, state: TrialState, tick: int) -> None:
        """Nothing more is trained."""
        self.trial = replace(
            self.trial, state=state, seconds=tick - self.began, running_since=None, ended=moment(tick)
        )


@dataclass(frozen=True)
class Success:
    """A trial that trained to its end, and the device seconds that the search had spent by then."""

    spent: float
    value: float
    values: Values


@dataclass
class Replay:
    """A search with its clock, in ticks."""

    table: Table
    job: FineTuneJob
    tick: int = 0
    playing: dict[Run, Playing] = field(default_factory=dict)
    successes: list[Success] = field(default_factory=list)

    @property
    def spec(self) -> FineTuneJobSpec:
        """Of the search."""
        return self.job.spec

    def search(self) -> Search:
        """The search as the operator sees it."""
        trials = tuple(one.trial for run, one in self.playing.items() if run.is_trial)
        repeats = tuple(Repeat(run, one.trial) for run, one in self.playing.items() if not run.is_trial)
        resolved = Resolved(ResourcesSpec(nodes=1, gpus_per_node=0), "pvc://demo/out", "trainer")
        assert self.spec.search
        return Search(self.job, resolved, trials, self.spec.search.max_trials or 0, METRIC, repeats)

    def play(self) -> None:
        """Let the clock run until the search has ended."""
        while not self.decided():
            running = self.running()
            while self.running() == running:
                run = min(running, key=lambda run: (self.playing[run].next_tick, run))
                self.tick = self.playing[run].next_tick
                self.evaluate(run)

    def running(self) -> list[Run]:
        """The runs that train."""
        return [run for run, one in self.playing.items() if one.trial.state is TrialState.RUNNING]

    def decided(self) -> bool:
        """Do what the operator decides until it has nothing more to do now; whether the search has ended."""
        while True:
            search = self.search()
            decision = decide_search(search, MODEL if search.winner else None, moment(self.tick))
            self.job = replace(self.job, status=decision.status)
            for run in decision.stop:
                self.playing[run].end(TrialState.SUSPENDED, self.tick)
                self.playing[run].trial = replace(self.playing[run].trial, suspended=True)
            if decision.create:
                self.create(decision.create)
            elif not decision.stop:
                return decision.concludes or finished(decision.status)

    def create(self, run: Run) -> None:
        """Begin a trial or a repetition."""
        training, search = self.spec.resolved_training(), self.search()
        assert training
        if run.is_trial:
            values, seed = propose(self.spec, run.trial, search.trials, METRIC), training.seed
        else:
            values = search.runs[Run(run.trial)].values
            new = reseeded(self.spec, values, run.seed)["training.seed"]
            seed = SEEDS[(new - SEEDS[0]) % len(SEEDS)]
        assert values
        trial = Trial(run.trial, run.suffix, TrialState.RUNNING, values, running_since=moment(self.tick))
        self.playing[run] = Playing(self.table.curve(nearest(values), seed), trial, self.tick)

    def evaluate(self, run: Run) -> None:
        """A run reports an evaluation: it has ended, is pruned, or goes on."""
        one = self.playing[run]
        one.evaluate()
        if len(one.trial.evaluations) == EPOCHS:
            one.end(TrialState.SUCCEEDED, self.tick)
            if run.is_trial:
                self.successes.append(Success(self.spent(), one.curve.accuracy[-1], one.curve.values))
        elif run.is_trial and self.pruned(run):
            one.end(TrialState.PRUNED, self.tick)

    def pruned(self, run: Run) -> bool:
        """What the operator answers to a report of an evaluation."""
        assert self.spec.search
        asha = self.spec.search.pruner and self.spec.search.pruner.asha
        others = [
            one.trial.evaluations for other, one in self.playing.items() if other.is_trial and other != run
        ]
        return bool(asha and why_pruned(asha, METRIC, self.playing[run].trial.evaluations, others))

    def spent(self) -> float:
        """Device seconds up to now."""
        ticks = sum(
            self.tick - one.began if one.trial.state is TrialState.RUNNING else one.trial.seconds
            for one in self.playing.values()
        )
        return ticks / TICKS

    def saved(self) -> float:
        """Device seconds that pruned trials would have trained beyond what they did."""
        return sum(
            one.curve.seconds[-1] - one.trial.seconds / TICKS
            for one in self.playing.values()
            if one.trial.state is TrialState.PRUNED
        )

    def repeating(self) -> float:
        """Device seconds of the repetitions."""
        return sum(one.trial.seconds for run, one in self.playing.items() if not run.is_trial) / TICKS

    def trained(self, trial: Trial) -> Values:
        """The configuration of the table that stands for a trial."""
        return self.playing[Run(trial.number)].curve.values

    def best_within(self, budget: float) -> Success:
        """The best trial of those that ended within a budget of device seconds."""
        return max((one for one in self.successes if one.spent <= budget), key=lambda one: one.value)


def nearest(values: Values) -> Values:
    """The grid's configuration with the nearest learning rate, by its logarithm."""
    rate = min(GRID[RATE], key=lambda listed: abs(math.log(listed / values[RATE])))
    return values | {RATE: rate}


def moment(tick: int) -> datetime:
    """The operator's clock."""
    return T0 + timedelta(seconds=tick)


def replay(table: Table, number: int, **search: Any) -> Replay:
    """Search `number`, played to its end."""
    spec = searching(number, search)
    one = Replay(table, FineTuneJob("bench", "tune", "0" * 8, 1, spec, FineTuneJobStatus()))
    one.play()
    return one
