"""From a FineTuneJob to the RunConfig of this machine: the operator's own plan, with folders for its volumes. Pure."""

import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finetune_api import uris
from finetune_api.finetunejob import FineTuneJobSpec, Preflight
from finetune_api.search_history import SearchHistory
from finetune_core.plan.effective import Resolved, resolve
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.reading import parse
from finetune_core.plan.volumes import OUTPUT, input_locations, mount_path
from finetune_core.plan.workload import attempt_config
from finetune_core.settings import OperatorSettings

Body = dict[str, Any]

_NAMESPACE = uuid.UUID("6f1f6f0e-52a2-4d2c-9d3c-2f0f6a1b7c55")
IMAGE = "this-machine"


@dataclass(frozen=True)
class Folders:
    """Folders that stand for claims and ConfigMaps, by name, and the one for a job's own output."""

    claims: Mapping[str, Path]
    config_maps: Mapping[str, Path]
    output: Path

    def of(self, place: uris.Location) -> Path | None:
        """The folder of a claim or ConfigMap."""
        return (self.claims if place.scheme == "pvc" else self.config_maps).get(place.name)


def stored(written: Body, now: datetime) -> Body:
    """The job as an API server would store it. The uid is a function of name and spec, so that a run can go on."""
    meta = written["metadata"]
    decisive = {
        name: part for name, part in written["spec"].items() if name not in ("suspend", "retry", "preflight")
    }
    uid = uuid.uuid5(_NAMESPACE, meta["name"] + json.dumps(decisive, sort_keys=True, default=str))
    added = {"namespace": meta.get("namespace", "local"), "uid": str(uid), "generation": 1}
    created = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return written | {"metadata": meta | added | {"creationTimestamp": created}}


def settings_for(gpus: int) -> OperatorSettings:
    """This machine as its own administrator. The trainer's first seconds check what preflight does."""
    return OperatorSettings(
        trainer_image=IMAGE, gpus_per_node=gpus, progress_interval=1.0, preflight=Preflight.SKIP
    )


def planned_job(body: Body, gpus: int) -> tuple[FineTuneJob, Resolved]:
    """The job on one node with this many GPUs, whatever its spec asks for."""
    job = parse(body)
    job = replace(job, spec=job.spec.model_copy(update={"preflight": None}))
    resolved = resolve(job, settings_for(gpus))
    resources = resolved.resources.model_copy(update={"nodes": 1, "gpus_per_node": gpus})
    return job, replace(resolved, resources=resources, image=IMAGE)


def unfit(spec: FineTuneJobSpec) -> str | None:
    """Why a job cannot run on this machine."""
    if spec.command is not None:
        return "spec.command: finetune local runs the trainer; start your own script directly"
    return None


def missing_folders(job: FineTuneJob, folders: Folders) -> Iterator[str]:
    """The options that name folders which the job needs and that are not given."""
    output = job.spec.output and job.spec.output.uri
    places = [*input_locations(job), *([uris.parse(output)] if output else [])]
    for place in {(one.scheme, one.name): one for one in places}.values():
        if folders.of(place) is None:
            yield f"{'--claim' if place.scheme == 'pvc' else '--config-map'} {place.name}=DIR"


def local_config(
    job: FineTuneJob,
    resolved: Resolved,
    attempt: int,
    folders: Folders,
    report: Path,
    history: SearchHistory | None = None,
) -> Body:
    """What the trainer reads for an attempt, as in a pod but for paths, /metrics and progress.

    `history` is that of a search that has ended.
    """
    settings = settings_for(resolved.resources.gpus_per_node or 0)
    planned = attempt_config(job, resolved, attempt, settings, history)
    assert planned
    mounts = {OUTPUT: _output(job, resolved, folders)}
    for place in input_locations(job):
        folder = folders.of(place)
        assert folder
        mounts[mount_path(place)] = folder
    here: Body = _relocated(
        planned.to_json(), {there: str(folder.absolute()) for there, folder in mounts.items()}
    )
    return here | {"metricsPort": 0, "terminationLog": str(report.absolute())}


def folders_of_runs(job: FineTuneJob, resolved: Resolved, folders: Folders) -> Folders:
    """The folders of a search's or an ensemble's runs, which write to its output claim."""
    own = {uris.parse(resolved.output_uri).name: _output(job, resolved, folders)}
    return replace(folders, claims={**folders.claims, **own})


def model_folder(job: FineTuneJob, resolved: Resolved, folders: Folders) -> Path:
    """The folder of this machine that the model is written to."""
    return _output(job, resolved, folders) / uris.parse(resolved.output_uri).path


def _output(job: FineTuneJob, resolved: Resolved, folders: Folders) -> Path:
    """The folder that stands for the output claim."""
    asked = bool(job.spec.output and job.spec.output.uri)
    output = folders.of(uris.parse(resolved.output_uri)) if asked else folders.output
    assert output
    return output


def _relocated(value: Any, mounts: Mapping[str, str]) -> Any:
    """The value with every path below a mount replaced; a path is the only text that begins with one."""
    if isinstance(value, dict):
        return {key: _relocated(child, mounts) for key, child in value.items()}
    if isinstance(value, list):
        return [_relocated(child, mounts) for child in value]
    if isinstance(value, str):
        for there, here in mounts.items():
            if value.startswith(f"{there}/"):
                return here + value.removeprefix(there)
    return value
