"""What to do next about an ensemble while its members train. Pure: (job, members, now) → ParentDecision.

The members are the state; the status repeats them for people, and knows those that somebody deleted.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from finetune_api.ensemble import EnsembleSpec
from finetune_api.status import (
    FineTuneJobStatus,
    MemberStatus,
    Phase,
    Reason,
    ResolvedStatus,
    TrialState,
)
from finetune_core.decide.conditions import Verdict
from finetune_core.decide.context import with_verdict
from finetune_core.decide.parents import (
    ParentDecision,
    active_seconds,
    at_rest,
    parent_status,
    verdict_of_runs,
)
from finetune_core.plan.effective import Resolved
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.naming import Run, run_name
from finetune_core.search.trials import Trial, lasting, member_of, waiting


@dataclass(frozen=True)
class Ensemble:
    """An ensemble as a decision sees it; `fault` keeps it from creating members."""

    job: FineTuneJob
    resolved: Resolved
    members: tuple[Trial, ...]
    metric: str
    resolved_inputs: ResolvedStatus | None = None
    """The inputs as the first member that reported them read them."""
    fault: Verdict | None = None

    @property
    def spec(self) -> EnsembleSpec:
        """The job's `spec.ensemble`."""
        assert self.job.spec.ensemble
        return self.job.spec.ensemble

    @property
    def open(self) -> list[Trial]:
        """The members that have not ended."""
        return [member for member in self.members if member.open]

    @property
    def at_rest(self) -> bool:
        """Whether nothing trains or is about to."""
        return at_rest([member.state for member in self.open])

    @property
    def created(self) -> int:
        """The highest number that a member has or had: they are created in order."""
        known = [one.number for one in self.job.status.members if one.state is not TrialState.PLANNED]
        return max([0, *known, *(member.number for member in self.members)])

    @property
    def deleted(self) -> list[int]:
        """Members that somebody deleted."""
        return sorted({*range(1, self.created + 1)} - {member.number for member in self.members})

    @property
    def succeeded(self) -> list[Trial]:
        """The members with a model."""
        return [member for member in self.members if member.state is TrialState.SUCCEEDED]

    @property
    def lost(self) -> int:
        """Members without a model, which will have none."""
        failed = sum(not member.open for member in self.members) - len(self.succeeded)
        return failed + len(self.deleted)


def decide_ensemble(ensemble: Ensemble, now: datetime) -> ParentDecision:
    """The next step while members train; the decision concludes when they can be combined."""
    end = _why_it_fails(ensemble, now)
    if end and ensemble.at_rest:
        return _fail(ensemble, end, now)
    if ensemble.created == ensemble.spec.size and not ensemble.open and not end:
        return ParentDecision(_status(ensemble, now), concludes=True)
    wanted = not ensemble.job.spec.suspend and end is None
    room = wanted and not ensemble.fault and len(ensemble.open) < ensemble.spec.parallelism
    missing = ensemble.created < ensemble.spec.size
    return ParentDecision(
        status=with_verdict(
            _status(ensemble, now),
            ensemble.job.generation,
            _verdict(ensemble, end.message if end else None),
            now,
        ),
        create=Run(member=ensemble.created + 1) if room and missing else None,
        stop=tuple(_run(member) for member in ensemble.open if not member.suspended and not wanted),
        resume=tuple(_run(member) for member in ensemble.open if member.suspended and wanted),
        requeue_at=_due(ensemble, now) if wanted else None,
    )


def _run(member: Trial) -> Run:
    return Run(member=member.number)


def _why_it_fails(ensemble: Ensemble, now: datetime) -> Verdict | None:
    limit, spec = ensemble.job.spec.active_deadline_seconds, ensemble.spec
    if limit is not None and active_seconds(ensemble.job.status, now) >= limit:
        have = f"{len(ensemble.succeeded)} of {spec.size} members have a model"
        message = f"spec.activeDeadlineSeconds of {limit} reached; {have}; create a new job with a longer one"
        return Verdict(Phase.FAILED, Reason.DEADLINE_EXCEEDED, message)
    if ensemble.lost <= spec.size - spec.least:
        return None
    failed = [member for member in ensemble.members if member.state is TrialState.FAILED]
    why = [f"{member.name} failed: {member.message}" for member in failed[-1:]]
    names = [run_name(ensemble.job, Run(member=number)) for number in ensemble.deleted]
    why += [f"{', '.join(names)} was deleted"] if names else []
    needs = f"the ensemble needs {spec.least} of {spec.size} members (spec.ensemble.minMembers)"
    return Verdict(Phase.FAILED, Reason.MEMBERS_FAILED, f"{needs}; {'; '.join(why)}")


def _fail(ensemble: Ensemble, verdict: Verdict, now: datetime) -> ParentDecision:
    seconds = active_seconds(ensemble.job.status, now)
    update = {"completion_time": now, "active_seconds": seconds}
    status = _status(ensemble, now, ended=True).model_copy(update=update)
    return ParentDecision(with_verdict(status, ensemble.job.generation, verdict, now))


def _due(ensemble: Ensemble, now: datetime) -> datetime | None:
    limit = ensemble.job.spec.active_deadline_seconds
    return now + timedelta(seconds=limit - active_seconds(ensemble.job.status, now)) if limit else None


def _verdict(ensemble: Ensemble, end: str | None) -> Verdict:
    if ensemble.fault and not end:
        return ensemble.fault
    stopping = f"{end}; stopping the members that train" if end else None
    states = [lasting(member, ensemble.job.status.phase) for member in ensemble.open]
    return verdict_of_runs(ensemble.job, states, "members", _news(ensemble), stopping)


def _news(ensemble: Ensemble) -> str:
    """What has come of the members so far."""
    trained, size = len(ensemble.succeeded), ensemble.spec.size
    parts = [f"{trained} of {size} members are trained, {len(ensemble.open)} are open"]
    if ensemble.lost:
        parts.append(f"{ensemble.lost} failed")
    return "; ".join([*parts, *waiting(ensemble.open)])


def _status(ensemble: Ensemble, now: datetime, *, ended: bool = False) -> FineTuneJobStatus:
    """The parent's status with what is known of the members."""
    suspends = ensemble.job.spec.suspend and ensemble.at_rest
    status = parent_status(ensemble.job, ensemble.resolved, now, at_rest=suspends)
    return status.model_copy(
        update={
            "resolved": status.resolved or ensemble.resolved_inputs,
            "members": _members(ensemble, ended=ended),
        }
    )


def _members(ensemble: Ensemble, *, ended: bool) -> list[MemberStatus]:
    found = {member.number: member_of(member) for member in ensemble.members}
    if ended:
        for member in ensemble.open:
            found[member.number] = found[member.number].model_copy(update={"state": TrialState.STOPPED})
    return [
        found.get(number) or _without_a_job(ensemble, number) for number in range(1, ensemble.spec.size + 1)
    ]


def _without_a_job(ensemble: Ensemble, number: int) -> MemberStatus:
    """A member that is not created yet, or that somebody deleted."""
    state = TrialState.FAILED if number <= ensemble.created else TrialState.PLANNED
    return MemberStatus(number=number, name=run_name(ensemble.job, Run(member=number)), state=state)
