"""What the operator's tests speak of: a job, what is seen of its children, and a clock that the test moves.

`Life` plays decisions one after the other as the reconcile does: the status of one visit is the input of the next.
"""

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from builders import UID, job, stored
from finetune_api.finetunejob import Preflight
from finetune_api.run import RunReport
from finetune_api.status import AttemptStatus, Condition, ConditionType, FineTuneJobStatus, ModelStatus
from finetune_core.decide.actions import Action, Decision
from finetune_core.decide.decision import decide
from finetune_core.decide.observation import ContainerEnd, InputView, JobView, Observation, PodView
from finetune_core.plan.effective import resolve
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.reading import parse
from finetune_core.plan.workload import Plan, plan
from finetune_core.settings import OperatorSettings
from mounted import files_in

T0 = datetime(2026, 1, 1, 12, tzinfo=UTC)
TRAINER = "registry.example/trainer:1"
MODEL = ModelStatus(uri="pvc://out/model", digest="sha256:" + "ab" * 32, format="safetensors")
REPORT = RunReport(exit_code=0, model=MODEL)

NOTHING, CREATE, STOP, DELETE = (
    Action.NOTHING,
    Action.CREATE_ATTEMPT,
    Action.STOP_ATTEMPT,
    Action.DELETE_CHILDREN,
)


def settings(**fields: Any) -> OperatorSettings:
    """Settings in which only `fields` differ from the defaults; without preflight, which has separate tests."""
    return OperatorSettings(**({"trainer_image": TRAINER, "preflight": Preflight.SKIP} | fields))


def parsed(written: dict[str, Any] | None = None, **fields: Any) -> FineTuneJob:
    """A newborn job with these fields of the spec."""
    return parse(stored(written or job(**fields)))


def seconds(number: float) -> datetime:
    """So many seconds after the beginning."""
    return T0 + timedelta(seconds=number)


def child(attempt: int = 1, **fields: Any) -> JobView:
    """An attempt's Job."""
    return JobView(name=f"job-a{attempt}", attempt=attempt, uid=f"uid-{attempt}", **fields)


def pod(attempt: int = 1, **fields: Any) -> PodView:
    """An attempt's pod, pending where `fields` do not say otherwise."""
    return PodView(**({"name": f"pod-a{attempt}", "attempt": attempt, "phase": "Pending"} | fields))


def running_pod(attempt: int = 1, since: datetime = T0, **fields: Any) -> PodView:
    """A pod whose container runs."""
    return pod(attempt, **({"phase": "Running", "node": "n1", "started": since} | fields))


def ended_pod(
    code: int,
    attempt: int = 1,
    *,
    report: RunReport | None = None,
    message: str = "",
    end_reason: str = "Error",
    at: datetime | None = None,
    **fields: Any,
) -> PodView:
    """A pod whose container ended."""
    text = report.model_dump_json(by_alias=True, exclude_none=True) if report else message
    end = ContainerEnd(code, end_reason, text, at)
    phase = "Failed" if code else "Succeeded"
    return pod(attempt, **({"phase": phase, "node": "n1", "started": T0, "end": end} | fields))


def seen(
    *views: JobView | PodView | InputView,
    report: RunReport | None = None,
    at: datetime | None = None,
) -> Observation:
    """An Observation of these objects."""
    return Observation(
        jobs=tuple(view for view in views if isinstance(view, JobView)),
        pods=tuple(view for view in views if isinstance(view, PodView)),
        inputs=tuple(view for view in views if isinstance(view, InputView)),
        report=report,
        report_time=at,
    )


def over(code: int, attempt: int = 1, **fields: Any) -> Observation:
    """An attempt that ended with this exit code."""
    return seen(
        child(attempt, succeeded=code == 0, failed=code != 0),
        ended_pod(code, attempt, **fields),
    )


def decide_with(
    of: FineTuneJob, observation: Observation, at: float, given: OperatorSettings | None = None
) -> Decision:
    """The decision of a reconcile, `at` seconds after the beginning."""
    given = given or settings()
    return decide(of, resolve(of, given), observation, seconds(at), given)


def planned(
    written: dict[str, Any], attempt: int = 1, given: OperatorSettings | None = None, uid: str = UID
) -> Plan:
    """The objects of an attempt of a job as a user writes it."""
    of, given = parse(stored(written, uid=uid)), given or settings()
    return plan(of, resolve(of, given), attempt, given, "-- certificate --\n")


def files(made: Plan, volume: str = "config") -> dict[str, str]:
    """What the pods of an attempt or a preflight find in a volume of texts."""
    return files_in(made.job["spec"]["template"], made.config_map, volume)


def run_json(made: Plan) -> Any:
    """What their trainer reads."""
    return json.loads(files(made)["run.json"])


@dataclass
class Life:
    """A job from visit to visit."""

    job: FineTuneJob = field(default_factory=parsed)
    settings: OperatorSettings = field(default_factory=settings)

    def reconcile(self, observation: Observation | None = None, at: float = 0) -> Decision:
        """One visit, `at` seconds after the beginning; its status is stored, as the API server would."""
        decision = decide_with(self.job, observation or Observation(), at, self.settings)
        self.store(decision.status)
        return decision

    def store(self, decided: FineTuneJobStatus) -> None:
        """Store a status as the API server would; the next visit finds it."""
        status = FineTuneJobStatus.from_json(decided.to_json())
        assert status == decided, "the status does not survive the API server"
        self.job = replace(self.job, status=status)

    def running(self, at: float = 0) -> "Life":
        """Until the container of the first attempt runs."""
        self.reconcile(at=at)
        self.reconcile(seen(child(), running_pod(since=seconds(at))), at=at)
        return self

    def change(self, **spec: Any) -> "Life":
        """The user changes the spec."""
        changed = self.job.spec.model_copy(update=spec)
        self.job = replace(self.job, spec=changed, generation=self.job.generation + 1)
        return self

    @property
    def status(self) -> FineTuneJobStatus:
        """The stored status."""
        return self.job.status

    @property
    def phase(self) -> str:
        """The stored phase."""
        return str(self.status.phase)

    @property
    def reason(self) -> str:
        """The stored reason."""
        return condition(self.status, ConditionType.RUNNING).reason

    @property
    def message(self) -> str:
        """The stored sentence."""
        return condition(self.status, ConditionType.RUNNING).message

    @property
    def last(self) -> AttemptStatus:
        """The newest attempt."""
        return self.status.attempts[-1]


def condition(status: FineTuneJobStatus, kind: ConditionType) -> Condition:
    """The condition of a type."""
    return next(one for one in status.conditions if one.type is kind)


def true_conditions(status: FineTuneJobStatus) -> set[str]:
    """The types of the conditions that are True."""
    return {str(one.type) for one in status.conditions if one.status == "True"}
