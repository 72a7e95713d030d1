"""What is seen of a job's children: frozen values that `observe` makes and every decision reads."""

from dataclasses import dataclass, replace
from datetime import datetime

from finetune_api.run import RunReport
from finetune_core.plan.claims import Devices
from finetune_core.plan.placement import OVERDUE


@dataclass(frozen=True, slots=True)
class ContainerEnd:
    """How the training container ended."""

    exit_code: int
    reason: str
    message: str
    finished: datetime | None


@dataclass(frozen=True, slots=True)
class PodView:
    """A pod of an attempt, or of a preflight, whose try is then its `attempt`; as it was last seen."""

    name: str
    attempt: int
    phase: str
    node: str | None = None
    deleted: bool = False
    deleting: bool = False
    started: datetime | None = None
    end: ContainerEnd | None = None
    waiting_reason: str | None = None
    waiting_message: str = ""
    unschedulable: str | None = None
    gates: tuple[str, ...] = ()
    memory_limit: str | None = None
    disruption: str | None = None
    status_reason: str | None = None
    status_message: str | None = None
    """The words of whoever ended the pod, such as the kubelet's."""
    deletion: datetime | None = None
    """When it should be gone: the request to delete it, and then its grace period."""
    scheduled: datetime | None = None
    companions: tuple[str, ...] = ()
    """Other containers that run, such as an injected sidecar."""
    image_id: str | None = None
    created: datetime | None = None
    index: int = 0
    checks_only: bool = False
    orphaned: bool = False
    """Its Job was deleted without it."""
    uid: str = ""
    mounted: bool = False
    """Its sandbox, which is made once its volumes are mounted, has been there."""
    unmounted: str | None = None
    """Why one of its volumes cannot be mounted, in the words of the newest Event; looked up while it does not start."""

    @property
    def finished(self) -> bool:
        """Whether none of its containers can run any more."""
        return self.deleted or self.phase in ("Succeeded", "Failed")

    @property
    def only_companions_run(self) -> bool:
        """Whether the trainer has ended, and another container keeps the pod, or it is on its way out.

        A kubelet reports the end of a pod's only container a moment before the phase that follows from it.
        """
        return self.end is not None and not self.finished and (bool(self.companions) or self.deleting)

    def unreachable(self, now: datetime) -> bool:
        """Whether its node no longer answers: it should be gone, and nobody has stopped it."""
        return self._overdue(now) and self.deleting and not self.finished and self.end is None

    def is_kept(self, now: datetime) -> bool:
        """Whether it has ended and should be gone, but a finalizer keeps the object."""
        return self._overdue(now) and self.finished and not self.deleted

    def _overdue(self, now: datetime) -> bool:
        return self.deletion is not None and now >= self.deletion + OVERDUE

    @property
    def begun(self) -> datetime | None:
        """When its container started: not before the pod was made, as a node's clock that is behind may say."""
        return max(self.started, self.created or self.started) if self.started else None

    @property
    def never_ran(self) -> bool:
        """Whether it was deleted before its container started."""
        return self.deleted and self.started is None and self.end is None

    def without_words(self) -> "PodView":
        """A copy without what its container, the kubelet and the scheduler said: up to some KiB."""
        end = replace(self.end, message="") if self.end else None
        return replace(self, end=end, waiting_message="", status_message=None, unschedulable=None)


@dataclass(frozen=True, slots=True)
class JobView:
    """The Job of an attempt, or of a preflight, whose try is then its `attempt`."""

    name: str
    attempt: int
    uid: str
    deleting: bool = False
    succeeded: bool = False
    failed: bool = False
    failure: str | None = None
    suspended: bool = False
    scaled_down: bool = False
    """Suspended by a parallelism of 0, which the operator does not set."""
    queue: str | None = None
    resumed: datetime | None = None
    checks_only: bool = False
    mounts_config_map: bool = False
    """Its pods read their configuration from the ConfigMap of its name."""
    mounts_output: bool = False

    @property
    def finished(self) -> bool:
        """Whether the Job controller starts no further pod."""
        return self.succeeded or self.failed


@dataclass(frozen=True, slots=True)
class InputView:
    """A claim or ConfigMap that a pod waits for."""

    kind: str
    name: str
    exists: bool
    bound: bool = True
    storage_class: str | None = None
    access_modes: tuple[str, ...] = ()
    volume: str | None = None
    """The PersistentVolume of a claim."""


@dataclass(frozen=True, slots=True)
class ClaimView:
    """The ResourceClaimTemplate of one of the job's claims."""

    template: str
    exists: bool
    devices: Devices
    accelerator: str | None = None
    """The class of the devices to compute on that it asks for; None for none."""


@dataclass(frozen=True, slots=True)
class QueueView:
    """What Kueue says of a Job: in its Workload, if it has made one. `served` is whether the cluster has Workloads."""

    served: bool = True
    name: str | None = None
    active: bool = True
    waiting: str | None = None
    evicted: str | None = None
    checks: str | None = None


@dataclass(frozen=True, slots=True)
class OutputHolder:
    """Another FineTuneJob that goes first, as its `output.uri` is the job's, inside that or around it."""

    name: str
    uri: str


@dataclass(frozen=True, slots=True)
class Observation:
    """All that a decision may look at. `inputs` is filled only while a pod does not start, and before several start.

    `queue` is filled while the Job is suspended. `pod_refusal` says why the newest attempt's Job has no pod, in the
    words of whoever refuses it. `claims` is filled before an attempt that has claims without gpusPerNode, or with 0.
    `reporters` are the pods of the attempt of `report` that have sent one; `jobs_reporting` says how many jobs share
    the API server for that. `output_holder` is filled before a job begins.
    """

    jobs: tuple[JobView, ...] = ()
    pods: tuple[PodView, ...] = ()
    inputs: tuple[InputView, ...] = ()
    pod_refusal: str | None = None
    report: RunReport | None = None
    report_time: datetime | None = None
    queue: QueueView | None = None
    claims: tuple[ClaimView, ...] = ()
    reporters: tuple[str, ...] = ()
    jobs_reporting: int = 0
    preflight_jobs: tuple[JobView, ...] = ()
    preflight_pods: tuple[PodView, ...] = ()
    output_holder: OutputHolder | None = None

    def of_preflight(self) -> "Observation":
        """What is seen of preflight, each try in the place of an attempt."""
        return replace(self, jobs=self.preflight_jobs, pods=self.preflight_pods)

    def report_of(self, attempt: int) -> RunReport | None:
        """The newest report, if it speaks of this attempt: the one before may have sent it."""
        return self.report if self.report and self.report.attempt == attempt else None

    def job(self, attempt: int) -> JobView | None:
        """The Job of an attempt."""
        return next((job for job in self.jobs if job.attempt == attempt), None)

    def pods_of(self, attempt: int) -> tuple[PodView, ...]:
        """The pods of an attempt by completion index, the newest of each: a Job that was suspended makes new ones."""
        newest: dict[int, PodView] = {}
        for pod in sorted((pod for pod in self.pods if pod.attempt == attempt), key=_age):
            newest[pod.index] = pod
        return tuple(newest[index] for index in sorted(newest))


def _age(pod: PodView) -> tuple[float, bool]:
    """The oldest first; of pods that were created in the same second, those that have not ended are newer."""
    return (pod.created.timestamp() if pod.created else 0.0, not pod.finished)
