"""Creates, stops and deletes the children of a FineTuneJob."""

import asyncio
from collections.abc import Callable
from typing import Any

from finetune_api import uris
from finetune_api.search_history import SearchHistory
from finetune_core.decide.observation import JobView
from finetune_core.plan.effective import Resolved
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.naming import JOB_UID, Run, attempt_name, preflight_name, service_name
from finetune_core.plan.nodes import count_of
from finetune_core.plan.preflight import preflight_plan
from finetune_core.plan.workload import output_claim, plan
from finetune_core.search.plan import followed, run_body
from finetune_core.search.space import Values
from finetune_core.settings import OperatorSettings
from finetune_core.wire import at
from finetune_operator.cache import Cache, Key, uid_of
from finetune_operator.cluster import Cluster
from finetune_operator.errors import AlreadyExistsError, ConflictError, ForeignObjectError, NotFoundError
from finetune_operator.nodes import Nodes
from finetune_operator.views import labels_in

Body = dict[str, Any]

_DELETED_AT_ONCE = 50


class Children:
    """The children of FineTuneJobs."""

    def __init__(
        self, cluster: Cluster, cache: Cache, settings: OperatorSettings, ca_certificate: Callable[[], str]
    ) -> None:
        self._cluster, self._cache, self._settings = cluster, cache, settings
        self._ca_certificate = ca_certificate
        self._nodes = Nodes(cluster, settings)

    async def create_attempt(
        self, job: FineTuneJob, resolved: Resolved, attempt: int, history: SearchHistory | None = None
    ) -> None:
        """Create the objects of an attempt; those that exist already are left as they are.

        `history` is that of a job with spec.search. Raises ForeignObjectError when a name is taken by an object that is
        not this job's.
        """
        known = self._jobs_of(job).get(attempt_name(job, attempt))
        mounted = known is not None and known.mounts_config_map
        authority = self._ca_certificate()
        wanted = plan(job, resolved, attempt, self._settings, authority, history, in_config_map=mounted)
        needed = (wanted.config_map, wanted.claim, wanted.service)
        await asyncio.gather(*[self._create_once(one["kind"], one, job) for one in needed if one])
        self._cache.put_child("Job", await self._create_once("Job", wanted.job, job))

    async def create_preflight(self, job: FineTuneJob, resolved: Resolved, number: int) -> None:
        """Create the objects of a try of preflight. Raises ForeignObjectError as `create_attempt` does."""
        known = self._jobs_of(job).get(preflight_name(job, number))
        bound = known.mounts_output if known else await self._output_bound(job, resolved)
        wanted = preflight_plan(
            job,
            resolved,
            number,
            self._settings,
            self._ca_certificate(),
            output_bound=bound,
            gpus=await self._nodes.gpus_for(job, resolved),
            in_config_map=known is not None and known.mounts_config_map,
        )
        if wanted.config_map:
            await self._create_once("ConfigMap", wanted.config_map, job)
        self._cache.put_child("Job", await self._create_once("Job", wanted.job, job))

    async def _output_bound(self, job: FineTuneJob, resolved: Resolved) -> bool:
        """Whether the output claim has a volume; one that the user has yet to make is waited for."""
        name = uris.parse(resolved.output_uri).name
        found = await self._cluster.get("PersistentVolumeClaim", job.namespace, name)
        if found is None:
            return bool(job.spec.output and job.spec.output.uri)
        return bool(at(found, "status", "phase") == "Bound")

    async def create_run(self, job: FineTuneJob, resolved: Resolved, run: Run, values: Values) -> None:
        """Create a run of a search or an ensemble, and the claim that its model is written to.

        Raises ForeignObjectError when a name is taken by an object that is not this job's.
        """
        claim = output_claim(job, self._settings)
        if claim and not await self._exists_already("PersistentVolumeClaim", claim, job):
            await self._create_once("PersistentVolumeClaim", claim, job)
        body = run_body(job, resolved, run, values)
        self._cache.put_finetunejob(await self._create_once("FineTuneJob", body, job))

    async def _exists_already(self, kind: str, body: Body, job: FineTuneJob) -> bool:
        """Whether an object of ours is there: all runs but the first find it. Raises ForeignObjectError."""
        found = await self._cluster.get(kind, job.namespace, body["metadata"]["name"])
        if found is not None and not _ours(kind, found, job):
            raise ForeignObjectError(kind, body["metadata"]["name"])
        return found is not None

    async def update_run(self, job: FineTuneJob, run: Body, *, stop: bool) -> None:
        """Suspend a run as it was seen, or let it go on with the parent's resources and scheduling."""
        await self._patch_run(run, followed(job.spec, stop=stop))

    async def _patch_run(self, run: Body, spec: Body) -> None:
        meta = run["metadata"]
        try:
            patched = await self._cluster.patch_spec(
                "FineTuneJob", meta["namespace"], meta["name"], meta["uid"], meta["resourceVersion"], spec
            )
        except (ConflictError, NotFoundError):
            return  # changed or deleted meanwhile, which is a separate event and brings the parent back
        self._cache.put_finetunejob(patched)

    async def _create_once(self, kind: str, body: Body, job: FineTuneJob) -> Body:
        try:
            return await self._cluster.create(kind, body)
        except AlreadyExistsError:
            name = body["metadata"]["name"]
            found = await self._cluster.get(kind, job.namespace, name)
            if found is None:
                raise  # deleted between the two calls; the queue comes back
            if not _ours(kind, found, job):
                raise ForeignObjectError(kind, name) from None
            return found

    async def stop_attempt(self, job: FineTuneJob, attempt: int) -> None:
        """Delete the attempt's Job: its pods get SIGTERM and the grace period to save a checkpoint."""
        await self._stop(job, attempt_name(job, attempt))

    async def stop_preflight(self, job: FineTuneJob, number: int) -> None:
        """Delete the Job of a preflight."""
        await self._stop(job, preflight_name(job, number))

    async def _stop(self, job: FineTuneJob, name: str) -> None:
        """The ConfigMap goes first; a pod that runs keeps what it has mounted."""
        child = self._jobs_of(job).get(name)
        if child and not child.deleting:
            if child.mounts_config_map:
                await self._delete("ConfigMap", name, job)
            await self._cluster.delete("Job", job.namespace, name, child.uid)

    async def delete_all(self, job: FineTuneJob) -> None:
        """Delete the Jobs, ConfigMaps and the Service of a finished job; never the FineTuneJob, never an output.

        Those that are there and those that the status records, some at a time: the deletion of a Job is an event,
        which enqueues the FineTuneJob again.
        """
        effective = job.status.effective
        if effective and effective.resources and count_of(effective.resources) > 1 and self._exists(job):
            await self._delete("Service", service_name(job), job)
        recorded = [attempt_name(job, attempt.number) for attempt in job.status.attempts]
        if job.status.preflight:
            recorded.append(preflight_name(job, job.status.preflight.number))
        known = self._jobs_of(job)
        living = [name for name, child in known.items() if not child.deleting]
        for name in dict.fromkeys([*recorded, *living[:_DELETED_AT_ONCE]]):
            if not self._exists(job):
                return  # owner references clean up
            if name not in known or known[name].mounts_config_map:
                await self._delete("ConfigMap", name, job)
            await self._delete("Job", name, job)  # last: while it is there, the work is not done

    async def stop_all(self, namespace: str, uid: str) -> None:
        """Delete the Jobs of a FineTuneJob that is being deleted, and suspend its runs: something else keeps it, and
        with it all of them."""
        for child in self._cache.jobs_of(namespace, uid):
            if not child.deleting:
                await self._cluster.delete("Job", namespace, child.name, child.uid)
        for run in self._cache.runs_of(namespace, uid).values():
            if not at(run, "spec", "suspend") and not at(run, "status", "completionTime"):
                await self._patch_run(run, {"suspend": True})

    def _jobs_of(self, job: FineTuneJob) -> dict[str, JobView]:
        """Its Jobs that exist, by name."""
        return {child.name: child for child in self._cache.jobs_of(job.namespace, job.uid)}

    def _exists(self, job: FineTuneJob) -> bool:
        body = self._cache.finetunejobs.get(Key(job.namespace, job.name))
        return body is not None and uid_of(body) == job.uid

    async def _delete(self, kind: str, name: str, job: FineTuneJob) -> None:
        found = await self._cluster.get(kind, job.namespace, name)
        if found and _ours(kind, found, job):
            await self._cluster.delete(kind, job.namespace, name, uid_of(found))


def _ours(kind: str, found: Body, job: FineTuneJob) -> bool:
    """Whether an object that has a child's name is that child. A claim has no owner reference, so its label decides."""
    if kind == "PersistentVolumeClaim":
        # its name has the uid too; a policy may have replaced the labels
        return labels_in(found).get(JOB_UID, job.uid) == job.uid
    return any(owner.get("uid") == job.uid for owner in found["metadata"].get("ownerReferences") or [])
