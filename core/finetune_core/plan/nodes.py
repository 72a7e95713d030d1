"""A job on several nodes: the pods of one attempt as an Indexed Job, their names, and how each knows which one it is.

The pods find each other by the headless Service of the job, which names also those that are not ready. Pod N has the
host name JOB-N; the names of another attempt are others.
"""

import json
import re
from typing import Any

from finetune_api.resources import ResourcesSpec
from finetune_api.run import NodesInput
from finetune_core.plan.effective import Resolved
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.naming import (
    ATTEMPT,
    COMPLETION_INDEX,
    JOB_UID,
    attempt_name,
    labels_of,
    owner_reference,
    service_name,
)
from finetune_core.settings import OperatorSettings

PORT = 29500
NODE_RANK = "PET_NODE_RANK"
_SHELLS = ("sh", "bash", "dash")
_TRL = re.compile(r"(^|[;&|(\n]|\bexec\b)\s*(\S*/)?trl\s")
_INDEX = f"metadata.annotations['{COMPLETION_INDEX}']"


def count_of(resources: ResourcesSpec) -> int:
    """Number of pods of an attempt."""
    return resources.nodes or 1


def processes_of(resources: ResourcesSpec) -> int:
    """Number of training processes of a pod."""
    return max(1, resources.gpus_per_node or 0)


def world_size(resources: ResourcesSpec) -> int:
    """Number of training processes of an attempt."""
    return count_of(resources) * processes_of(resources)


def on_one_machine(job: FineTuneJob) -> bool:
    """Whether all pods of an attempt run on the same node of the cluster."""
    key = job.spec.scheduling.topology_key if job.spec.scheduling else None
    return count_of(job.spec.resources or ResourcesSpec()) == 1 or key == "kubernetes.io/hostname"


def address(job: FineTuneJob, attempt: int) -> str:
    """Name of an attempt's first pod in the cluster's DNS, for pods of the same namespace."""
    return f"{attempt_name(job, attempt)}-0.{service_name(job)}"


def nodes_input(job: FineTuneJob, resolved: Resolved, attempt: int) -> NodesInput | None:
    """The trainer's description of the pods; None for one pod."""
    count = count_of(resolved.resources)
    return NodesInput(count=count, address=address(job, attempt), port=PORT) if count > 1 else None


def service(job: FineTuneJob, resolved: Resolved) -> dict[str, Any] | None:
    """The Service that gives the pods of every attempt their names; None for a job of one pod."""
    if count_of(resolved.resources) == 1:
        return None
    labels = {name: value for name, value in labels_of(job, 1).items() if name != ATTEMPT}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": service_name(job),
            "namespace": job.namespace,
            "labels": labels,
            "ownerReferences": [owner_reference(job)],
        },
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {JOB_UID: job.uid},
            "ports": [{"name": "rendezvous", "port": PORT}],
        },
    }


def indexed(resources: ResourcesSpec) -> dict[str, Any]:
    """How many pods a Job has."""
    count = count_of(resources)
    mode = {"completionMode": "Indexed"} if count > 1 else {}
    return mode | {"completions": count, "parallelism": count}


def environment(
    job: FineTuneJob, resources: ResourcesSpec, attempt: int, settings: OperatorSettings
) -> list[dict[str, Any]]:
    """The variables by which a pod finds the others. Our trainer needs its number alone.

    torchrun reads PET_*, and sets RANK and alike for its processes itself; Lightning reads NODE_RANK. A command that
    trains in its own process needs RANK, WORLD_SIZE and LOCAL_RANK, which are known here if a pod has one process.
    trl must not see these: before it starts accelerate's launcher, its command line would join the others by them and
    hold their port. accelerate joins ranks on a CPU only with ACCELERATE_USE_CPU; else every rank would train alone.
    """
    if count_of(resources) == 1:
        return []
    rank = {"valueFrom": {"fieldRef": {"fieldPath": _INDEX}}}
    ranks, processes = [NODE_RANK], processes_of(resources)
    if not job.spec.command:
        return [{"name": NODE_RANK, **rank}]
    known = {
        "PET_NNODES": count_of(resources),
        "PET_NPROC_PER_NODE": processes,
        "PET_MASTER_ADDR": address(job, attempt),
        "PET_MASTER_PORT": PORT,
        "MASTER_ADDR": address(job, attempt),
        "MASTER_PORT": PORT,
    }
    ranks.append("NODE_RANK")
    if processes == 1 and not _runs_trl(job.spec.command):
        known |= {"WORLD_SIZE": world_size(resources), "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
        ranks.append("RANK")
    if on_cpu(resources, settings):
        known["ACCELERATE_USE_CPU"] = "true"
    return [
        *({"name": name, "value": str(value)} for name, value in known.items()),
        *({"name": name, **rank} for name in ranks),
    ]


def _runs_trl(command: list[str]) -> bool:
    """Whether the program is trl's command line, or one of those that the text of a shell names."""
    program = command[0].rpartition("/")[2]
    if program in _SHELLS:
        return any(_TRL.search(part) for part in command[1:])
    return program == "trl" or command[1:3] == ["-m", "trl"]


def accelerate_files(
    job: FineTuneJob, resources: ResourcesSpec, attempt: int, settings: OperatorSettings
) -> dict[str, str]:
    """accelerate's default configuration for each pod of a script: `accelerate launch` and `trl` read no PET_*.

    It is the same on a CPU: for MULTI_CPU accelerate starts one process with the ranks in its environment, and the
    launcher for MULTI_GPU gives them on any device. Where to compute is then decided by ACCELERATE_USE_CPU.
    """
    if count_of(resources) == 1 or not job.spec.command:
        return {}
    common = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_GPU",
        "use_cpu": False,
        "num_machines": count_of(resources),
        "num_processes": world_size(resources),
        "main_process_ip": address(job, attempt),
        "main_process_port": PORT,
        "rdzv_backend": "static",
        "same_network": True,
    }
    return {
        accelerate_file(str(rank)): json.dumps(common | {"machine_rank": rank})
        for rank in range(count_of(resources))
    }


def accelerate_file(rank: str) -> str:
    """Key of the configuration of one pod."""
    return f"accelerate-{rank}.yaml"


def on_cpu(resources: ResourcesSpec, settings: OperatorSettings) -> bool:
    """Whether the pods have no GPU, or none that is real."""
    return not resources.gpus_per_node or settings.simulate_gpus


def together(job: FineTuneJob, resources: ResourcesSpec, attempt: int) -> dict[str, Any] | None:
    """The affinity of the pods to each other that scheduling.topologyKey asks for."""
    key = job.spec.scheduling.topology_key if job.spec.scheduling else None
    if key is None or count_of(resources) == 1:
        return None
    own = {name: labels_of(job, attempt)[name] for name in (JOB_UID, ATTEMPT)}
    term = {"topologyKey": key, "labelSelector": {"matchLabels": own}}
    return {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
