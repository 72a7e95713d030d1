"""Environment variables with the inputs and outputs of a user's script."""

from finetune_api.dataset import DataSource, ValidationSpec
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.volumes import output_paths, path_of

WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "3000"}
"""How threads of OpenMP wait on CPUs: as the trainer's do."""


def script_environment(job: FineTuneJob, output_uri: str) -> dict[str, str]:
    """The variables that name inputs and outputs."""
    paths = output_paths(job, output_uri)
    env = {"FINETUNE_OUTPUT_DIR": paths.model_dir, "FINETUNE_CHECKPOINT_DIR": paths.checkpoint_dir}
    if job.spec.model:
        env |= _place("MODEL", "DIR", job.spec.model.uri)
    if job.spec.dataset:
        data = job.spec.dataset
        parts: dict[str, DataSource | ValidationSpec | None] = {
            "TRAIN": data.train,
            "VALIDATION": data.validation,
            "TEST": data.test,
        }
        for part, source in parts.items():
            env |= _place(part, "FILE", source.uri) if source and source.uri else {}
    return env


def _place(part: str, kind: str, uri: str) -> dict[str, str]:
    """A path on a claim, or the hf:// URI that the script itself downloads."""
    path = path_of(uri)
    return {f"FINETUNE_{part}_{kind}": path} if path else {f"FINETUNE_{part}_URI": uri}
