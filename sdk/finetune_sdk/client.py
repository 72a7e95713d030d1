"""Submits, lists and reads FineTuneJobs."""

from difflib import get_close_matches
from typing import Any

from finetune_api import GROUP
from finetune_sdk.cluster import Cluster
from finetune_sdk.errors import ClusterError, NotFoundError
from finetune_sdk.finetunejob import FineTuneJob
from finetune_sdk.job import Job

Body = dict[str, Any]


class Client:
    """A connection to a cluster, for the FineTuneJobs of one namespace.

    Without arguments it uses the current context of the kubeconfig and its namespace, as kubectl does. Raises
    ConfigError.
    """

    def __init__(
        self, namespace: str | None = None, *, context: str | None = None, kubeconfig: str | None = None
    ) -> None:
        self.cluster = Cluster.connect(context, kubeconfig)
        self.namespace = namespace or self.cluster.namespace

    def submit(self, job: FineTuneJob) -> Job:
        """Create the job, or change what may be changed of one that exists. Raises RefusedError, ConflictError."""
        return self.apply(job.to_body())

    def apply(self, body: Body) -> Job:
        """The same for a wire form."""
        namespace = body["metadata"].get("namespace") or self.namespace
        return Job(self.cluster, self.cluster.apply("FineTuneJob", namespace, body))

    def get(self, name: str) -> Job:
        """The job of this name. Raises NotFoundError with the closest name, or the namespace that has it."""
        try:
            return Job(self.cluster, self.cluster.get("FineTuneJob", self.namespace, name))
        except NotFoundError as error:
            raise NotFoundError(
                f"FineTuneJob {name} not found in namespace {self.namespace} of context"
                f" {self.cluster.context}{self._hint(name)}"
            ) from error

    def jobs(self, selector: str = "") -> list[Job]:
        """The jobs of the namespace, those of searches and ensembles included, by name."""
        found = self.cluster.list_all("FineTuneJob", self.namespace, selector)
        return [Job(self.cluster, body) for body in sorted(found, key=lambda body: body["metadata"]["name"])]

    def runs_of(self, job: Job) -> list[Job]:
        """The trials, repetitions or members of a search or an ensemble; none of any other job."""
        if not (job.spec.search or job.spec.ensemble):
            return []
        return self.jobs(f"{GROUP}/parent-uid={job.uid}")

    def _hint(self, name: str) -> str:
        """A name or a namespace that may be meant."""
        try:
            bodies = self.cluster.list_all("FineTuneJob", None)
        except ClusterError:  # who may read one namespace may not read all
            try:
                bodies = self.cluster.list_all("FineTuneJob", self.namespace)
            except ClusterError:
                return ""
        places = [(body["metadata"]["namespace"], body["metadata"]["name"]) for body in bodies]
        if elsewhere := [namespace for namespace, other in places if other == name]:
            return f"; it is in {', '.join(elsewhere)}: write --namespace {elsewhere[0]}"
        near = get_close_matches(name, [other for at, other in places if at == self.namespace], n=1)
        return f"; did you mean {near[0]}?" if near else ""
