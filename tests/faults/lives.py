"""Whole lives of jobs as their user and their kubelet see them, and what they come to."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from builders import LARGE_OBJECTIVE
from faults.rig import Rig
from integration.operator_rig import CHILDREN, CLAIMS, CONFIG_MAPS, JOBS, PATIENCE, World, until
from integration.test_operator_restart import essence

Json = dict[str, Any]

_ASKED = "Suspended"
_MEASURED = ("deviceSeconds", "savedSeconds")
_ATTEMPT, _OWNER = "finetune.dev/attempt", "finetune.dev/job-name"
_NUMBERS = ("finetune.dev/trial", "finetune.dev/member")
_UNKNOWN = 1
_PAUSE = 0.2
"""Seconds between two looks: a whole kind of lives shares the machine with its operator."""
_RATES = [{"path": "training.optimizer.learningRate", "choice": [1e-4, 2e-4, 3e-4]}]


@dataclass(frozen=True)
class Life:
    """A spec, and how the first attempt of the job, or of its first run, ends."""

    spec: Json = field(default_factory=dict)
    first: int | None = 0
    """The exit code of its pod. None: the user suspends the job while it runs, and resumes it when it has stopped."""
    simpler: str | None = "plain"
    """The life whose kinds of writes are struck there only."""


LIVES = {
    "plain": Life(simpler=None),
    "large": Life({"objective": LARGE_OBJECTIVE}),
    "checked": Life({"preflight": "Required"}),
    "retried": Life(first=_UNKNOWN),
    "suspended": Life(first=None),
    "search": Life({"search": {"algorithm": "Grid", "parameters": _RATES}}),
    "suspended-search": Life({"search": {"parameters": _RATES, "maxTrials": 2}}, None, "suspended"),
    "ensemble": Life({"ensemble": {"members": 2}}),
}


def live(found: Rig, life: Life, names: list[str]) -> list[Json]:
    """Whole lives, all at once; what they came to."""
    world, user = found.world, _User(found.world)
    found.kubelet.script = _pods_of(life, world)
    for name in names:
        world.apply(name, **life.spec)

    def all_ended() -> bool:
        time.sleep(_PAUSE)
        jobs = [job for job in world.rest.items(world.at(JOBS)) if job["metadata"]["name"] in names]
        if life.first is None:
            user.look_at(jobs)
        return all((job.get("status") or {}).get("completionTime") for job in jobs)

    until(all_ended, "every life has ended", PATIENCE * (1 + len(names)), log=found.operator)
    found.succeeds(*names)
    found.settles()
    return [_outcome(world, name) for name in names]


class _User:
    """Suspends each job once, when it or its first run is said to run, and resumes it when it has stopped."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._suspended: set[str] = set()

    def look_at(self, jobs: list[Json]) -> None:
        """The next step for each of these."""
        for job in jobs:
            name = job["metadata"]["name"]
            if name not in self._suspended and "Running" in _states(job):
                self._world.change(name, suspend=True)
                self._suspended.add(name)
            elif job["spec"].get("suspend") and _states(job)[0] == "Suspended":
                self._world.change(name, suspend=False)


def _pods_of(life: Life, world: World) -> Callable[[Json], int | None]:
    """A pod ends when its job says that it runs, and the search or ensemble of a run says so, too."""

    def code(pod: Json) -> int | None:
        labels = pod["metadata"]["labels"]
        attempt = labels.get(_ATTEMPT)
        if attempt is None:
            return 0
        job = world.job(labels[_OWNER])
        owners = job["metadata"].get("ownerReferences")
        if not _says_that_it_runs(job, int(attempt)):
            return None
        if owners and "Running" not in _states(world.job(owners[0]["name"]))[1:]:
            return None
        return life.first if attempt == "1" and _trains_first(job) else 0

    return code


def _says_that_it_runs(job: Json, attempt: int) -> bool:
    attempts = (job.get("status") or {}).get("attempts") or []
    return bool(attempts) and attempts[-1]["number"] == attempt and "runningTime" in attempts[-1]


def _states(job: Json) -> list[str]:
    """The phase of a job, and the states of its runs."""
    status = job.get("status") or {}
    runs = [*(status.get("trials") or {}).get("latest", []), *(status.get("members") or [])]
    return [status.get("phase", ""), *(one["state"] for one in runs)]


def _trains_first(job: Json) -> bool:
    """Whether it is a job without runs, or the first run of one."""
    labels = job["metadata"].get("labels") or {}
    numbers = [labels[name] for name in _NUMBERS if name in labels]
    return not {"search", "ensemble"} & job["spec"].keys() and numbers in ([], ["1"])


def _family(world: World, name: str) -> list[Json]:
    """The job and its runs."""
    uid = world.job(name)["metadata"]["uid"]
    runs = world.rest.items(world.at(JOBS), f"finetune.dev/parent-uid={uid}")
    return [world.job(name), *sorted(runs, key=lambda one: str(one["metadata"]["name"]))]


def _outcome(world: World, name: str) -> Json:
    """What a life came to, without names, times and uids."""
    found = _family(world, name)
    counts: Counter[str] = Counter()
    for one in found:
        for path in (CHILDREN, CONFIG_MAPS, CLAIMS):
            counts[path] += len(
                world.rest.items(world.at(path), f"finetune.dev/job-uid={one['metadata']['uid']}")
            )
    statuses = [essence(one["status"]) for one in found]
    for status in statuses:
        for attempt in status["attempts"]:
            if attempt["reason"] == _ASKED:  # its pod may be gone before an operator saw how it ended
                attempt.pop("exitCode", None)
        trials = status.get("trials") or {}
        for measured in _MEASURED:
            trials.pop(measured, None)
        for run in [*trials.get("latest", []), trials.get("best") or {}, *(status.get("members") or [])]:
            for its_own in ("name", "uri"):
                run.pop(its_own, None)
        (status.get("progress") or {}).pop("lastUpdateTime", None)
    return {"statuses": statuses, "counts": counts}
