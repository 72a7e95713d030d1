"""What a pod needs for inputs from the Hugging Face Hub: its endpoint, and the token as a file.

The operator never reads the token: the kubelet mounts the Secret, and only the file's path is written anywhere.
"""

from typing import Any

from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.volumes import Mount, uses_hub
from finetune_core.settings import OperatorSettings

TOKEN_FOLDER, TOKEN_KEY, TOKEN_VOLUME = "/var/run/finetune-hub", "token", "hub-token"


def secret_of(job: FineTuneJob) -> str | None:
    """The Secret with the token, for a job that needs the Hub."""
    credentials = job.spec.model.credentials if job.spec.model else None
    return credentials.secret_name if credentials and uses_hub(job) else None


def token_mount(job: FineTuneJob) -> list[Mount]:
    """The token as a file that the pod's group may read."""
    name = secret_of(job)
    if name is None:
        return []
    items = [{"key": TOKEN_KEY, "path": TOKEN_KEY}]
    secret: dict[str, Any] = {"secretName": name, "items": items, "defaultMode": 0o440}
    return [Mount({"name": TOKEN_VOLUME, "secret": secret}, TOKEN_FOLDER)]


def administrators_environment(settings: OperatorSettings) -> dict[str, str]:
    """What the administrator decides about the Hub, which no job may change."""
    endpoint = {"HF_ENDPOINT": settings.hub_endpoint} if settings.hub_endpoint else {}
    return endpoint | ({"HF_HUB_OFFLINE": "1"} if settings.hub_offline else {})


def hub_environment(job: FineTuneJob, settings: OperatorSettings) -> dict[str, str]:
    """Variables of huggingface_hub's own. Jobs without hf:// inputs must not contact the Hub."""
    env = administrators_environment(settings)
    if not uses_hub(job):
        env["HF_HUB_OFFLINE"] = "1"
    if secret_of(job):
        env["HF_TOKEN_PATH"] = f"{TOKEN_FOLDER}/{TOKEN_KEY}"
    return env
