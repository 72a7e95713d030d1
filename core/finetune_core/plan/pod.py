"""The training pod: restricted by the Pod Security Standards, nothing writable but the output and emptyDirs."""

from typing import Any

from finetune_api.resources import ResourcesSpec
from finetune_api.run import RUN_CONFIG_PATH, TERMINATION_LOG
from finetune_core.plan.effective import Resolved
from finetune_core.plan.files import CA_FILE, Files
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.hub import hub_environment, token_mount
from finetune_core.plan.naming import Child, attempt_child, service_name
from finetune_core.plan.nodes import NODE_RANK, accelerate_file, count_of, environment, on_cpu, together
from finetune_core.plan.placement import node_affinity, while_unreachable
from finetune_core.plan.run_config import CONFIG, METRICS_PORT, TOKEN_PATH
from finetune_core.plan.script import WAITING, script_environment
from finetune_core.plan.volumes import Mount, mounts_of
from finetune_core.settings import OperatorSettings

CONTAINER = "trainer"
_HF_HOME = "/home/finetune/huggingface"
_TOKEN_SECONDS = 3600
_SCRATCH = {"/tmp": "tmp", "/home/finetune": "home"}  # noqa: S108 — an emptyDir of the pod's own


def pod_template(
    job: FineTuneJob, resolved: Resolved, attempt: int, files: Files, settings: OperatorSettings
) -> dict[str, Any]:
    """The pod template of an attempt."""
    child, places = attempt_child(job, attempt), mounts_of(job, resolved.output_uri)
    return template_of(job, resolved, child, places, files, settings)


def template_of(
    job: FineTuneJob,
    resolved: Resolved,
    child: Child,
    places: list[Mount],
    files: Files,
    settings: OperatorSettings,
) -> dict[str, Any]:
    """The pod template of an attempt, or of a preflight of the first one; `places` are inputs and output."""
    attempt = child.attempt
    mounts = [
        *places,
        *_own_mounts(job, resolved, files, settings),
        *_accelerate_mounts(job, resolved, files),
    ]
    return {
        "metadata": _without_nones(
            {
                "labels": settings.pod_labels | child.labels,
                "annotations": settings.pod_annotations | files.annotations or None,
            }
        ),
        "spec": _without_nones(
            {
                "restartPolicy": "Never",
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                # as process 1 a script without a handler would ignore SIGTERM for the whole grace period
                "shareProcessNamespace": True if job.spec.command else None,
                "terminationGracePeriodSeconds": _grace(job),
                "securityContext": _pod_security(settings),
                "runtimeClassName": settings.runtime_class,
                "volumes": [mount.volume for mount in mounts],
                "resourceClaims": [claim.to_json() for claim in resolved.resources.claims or []] or None,
                "containers": [_container(job, resolved, child, settings, mounts)],
                "subdomain": service_name(job) if count_of(resolved.resources) > 1 else None,
            }
            | _scheduling(job, resolved, attempt, settings)
        ),
    }


def _container(
    job: FineTuneJob, resolved: Resolved, child: Child, settings: OperatorSettings, mounts: list[Mount]
) -> dict[str, Any]:
    command = {"command": job.spec.command} if job.spec.command else {"args": [RUN_CONFIG_PATH]}
    # neither a script nor a preflight serves metrics: Prometheus would find its port down
    serves = not (job.spec.command or child.checks_only)
    return command | {
        "name": CONTAINER,
        "image": resolved.image,
        "imagePullPolicy": settings.image_pull_policy.value,
        "env": _environment(job, resolved, child.attempt, settings),
        "ports": [{"name": "metrics", "containerPort": METRICS_PORT}] if serves else [],
        "resources": _resources(resolved.resources),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePath": TERMINATION_LOG,
        # a user's script writes no report; the end of its log is the next best explanation
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [mount.in_container() for mount in mounts],
    }


def _environment(
    job: FineTuneJob, resolved: Resolved, attempt: int, settings: OperatorSettings
) -> list[dict[str, Any]]:
    env = {
        "HOME": "/home/finetune",
        "HF_HOME": _HF_HOME,
        "MPLCONFIGDIR": "/tmp/matplotlib",  # noqa: S108
    } | hub_environment(job, settings)
    if job.spec.command:
        env |= script_environment(job, resolved.output_uri) | _progress_environment(settings)
    ours = {name: {"name": name, "value": value} for name, value in env.items()}
    ours |= {one["name"]: one for one in environment(job, resolved.resources, attempt, settings)}
    given = {variable.name: variable.to_json() for variable in job.spec.env or []}
    if job.spec.command and on_cpu(resolved.resources, settings) and not WAITING.keys() & given.keys():
        ours |= {name: {"name": name, "value": value} for name, value in WAITING.items()}
    return list((ours | given).values())


def _progress_environment(settings: OperatorSettings) -> dict[str, str]:
    """What makes an unmodified Hugging Face Trainer (transformers ≥ 4.57) post its progress."""
    if not settings.progress_url:
        return {}
    return {
        "KUBEFLOW_TRAINER_SERVER_URL": f"{settings.progress_url}/v1/progress",
        "KUBEFLOW_TRAINER_SERVER_TOKEN": TOKEN_PATH,
        "KUBEFLOW_TRAINER_SERVER_CA_CERT": f"{CONFIG}/{CA_FILE}",
    }


def _own_mounts(
    job: FineTuneJob, resolved: Resolved, files: Files, settings: OperatorSettings
) -> list[Mount]:
    scratch = [
        Mount({"name": name, "emptyDir": {}}, path, read_only=False) for path, name in _SCRATCH.items()
    ]
    memory: dict[str, Any] = {"medium": "Memory"}
    if size := resolved.resources.shared_memory:
        memory["sizeLimit"] = size
    shared = Mount({"name": "shared-memory", "emptyDir": memory}, "/dev/shm", read_only=False)  # noqa: S108
    return [
        Mount(files.volume("config"), CONFIG),
        *scratch,
        shared,
        *_token_mount(settings),
        *token_mount(job),
    ]


def _accelerate_mounts(job: FineTuneJob, resolved: Resolved, files: Files) -> list[Mount]:
    """accelerate's default configuration of this pod, in a separate folder, as root owns that of a mount."""
    if count_of(resolved.resources) == 1 or not job.spec.command:
        return []
    home = Mount({"name": "huggingface", "emptyDir": {}}, _HF_HOME, read_only=False)
    path = f"{_HF_HOME}/accelerate/default_config.yaml"
    return [home, Mount(files.volume("accelerate"), path, file=accelerate_file(f"$({NODE_RANK})"))]


def _token_mount(settings: OperatorSettings) -> list[Mount]:
    if not settings.progress_url:
        return []
    token = {
        "path": TOKEN_PATH.rpartition("/")[2],
        "audience": settings.progress_audience,
        "expirationSeconds": _TOKEN_SECONDS,
    }
    volume = {"name": "token", "projected": {"sources": [{"serviceAccountToken": token}]}}
    return [Mount(volume, TOKEN_PATH.rpartition("/")[0])]


def _resources(wanted: ResourcesSpec) -> dict[str, Any]:
    limits = dict(wanted.limits or {})
    if wanted.gpus_per_node and wanted.gpu_resource:
        limits[wanted.gpu_resource] = str(wanted.gpus_per_node)
    claims = {"claims": [{"name": claim.name} for claim in wanted.claims]} if wanted.claims else {}
    return {"requests": dict(wanted.requests or {}), "limits": limits} | claims


def _grace(job: FineTuneJob) -> int:
    training = job.spec.resolved_training()
    return training.checkpoint.grace_period_seconds if training else 120


def _pod_security(settings: OperatorSettings) -> dict[str, Any]:
    ids = {
        "runAsUser": settings.run_as_user,
        "runAsGroup": settings.run_as_group,
        "fsGroup": settings.fs_group,
    }
    return {
        "runAsNonRoot": True,
        **({} if settings.platform_ids else ids),
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _scheduling(
    job: FineTuneJob, resolved: Resolved, attempt: int, settings: OperatorSettings
) -> dict[str, Any]:
    asked = job.spec.scheduling
    # the administrator's values win: a job may restrict where its pods run, not widen it
    selector = ((asked and asked.node_selector) or {}) | settings.node_selector
    tolerations = [*settings.tolerations, *((asked and asked.tolerations) or [])]
    affinity = (node_affinity(job.status) or {}) | (together(job, resolved.resources, attempt) or {})
    tolerated = [toleration.to_json() for toleration in tolerations]
    secrets = [*settings.image_pull_secrets, *((asked and asked.image_pull_secrets) or [])]
    return {
        "nodeSelector": selector or None,
        "tolerations": [*tolerated, *while_unreachable(_grace(job), settings.node_lost_seconds, tolerations)],
        "priorityClassName": asked.priority_class_name if asked else None,
        "schedulerName": asked.scheduler_name if asked else None,
        "imagePullSecrets": [{"name": name} for name in secrets] or None,
        "affinity": affinity or None,
    }


def _without_nones(value: dict[str, Any]) -> dict[str, Any]:
    return {key: child for key, child in value.items() if child is not None}
