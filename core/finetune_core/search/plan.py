"""The FineTuneJob of a trial, a repetition or a member. Pure."""

from dataclasses import replace
from typing import Any

from finetune_api import API_VERSION, KIND
from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.overrides import overridden
from finetune_api.status import ResolvedData, ResolvedModel, ResolvedStatus
from finetune_api.uris import is_hub, parse_hub
from finetune_core.plan.effective import Resolved
from finetune_core.plan.finetunejob import FineTuneJob, of_one_run
from finetune_core.plan.kueue import passed
from finetune_core.plan.naming import Run, owner_reference, run_labels, run_name, run_uri
from finetune_core.search.space import Values

SEEDS = 2**31
_THE_PARENTS = ("suspend", "activeDeadlineSeconds", "preflight")
FOLLOWED = ("suspend", "resources", "scheduling")
"""Fields that a run takes from its parent when they change."""


def run_body(job: FineTuneJob, resolved: Resolved, run: Run, values: Values) -> dict[str, Any]:
    """The FineTuneJob of a run: the parent's spec with these values and another output folder.

    The rows are split with the parent's seed, so that all runs are evaluated on the same ones, and what is on the Hub
    is read at the commit that the first run read.
    """
    spec = {name: part for name, part in of_one_run(job.spec).items() if name not in _THE_PARENTS} | {
        "output": _output(job, resolved, run)
    }
    spec["dataset"] = spec["dataset"] | {"validation": _validation(job.spec)}
    _pin(spec, job.status.resolved)
    spec = overridden(spec, values, FineTuneJobSpec)
    if job.spec.ensemble:
        merge_adapter(spec)
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": run_name(job, run),
            "namespace": job.namespace,
            "labels": run_labels(job, run) | passed(job.kueue_labels),
            "ownerReferences": [owner_reference(job)],
        },
        "spec": spec,
    }


def _output(job: FineTuneJob, resolved: Resolved, run: Run) -> dict[str, Any]:
    asked = job.spec.output.to_json() if job.spec.output else {}
    return asked | {"uri": run_uri(resolved.output_uri, run)}


def merge_adapter(spec: dict[str, Any]) -> None:
    """Have the run of an ensemble publish its adapter merged.

    What is combined are whole models: the mean of adapters' factors is not that of what they add.
    """
    if adapter := spec["model"].get("adapter"):
        for options in adapter.values():
            options["merge"] = True


def _validation(spec: FineTuneJobSpec) -> dict[str, Any]:
    training = spec.resolved_training()
    assert spec.dataset and training
    asked = spec.dataset.validation.to_json() if spec.dataset.validation else {}
    return asked if "uri" in asked else {"seed": training.seed} | asked


def _pin(spec: dict[str, Any], resolved: ResolvedStatus | None) -> None:
    """Write the commits of an earlier trial into the hf:// URIs: a branch may move while a search runs."""
    model, data = spec["model"], spec["dataset"]
    holders = {
        "model": model,
        "tokenizer": model.get("tokenizer"),
        **{part: data.get(part) for part in ("train", "validation", "test")},
    }
    for name, holder in holders.items():
        read: ResolvedModel | ResolvedData | None = getattr(resolved, name, None)
        if holder and read and read.revision and is_hub(read.uri) and holder.get("uri") == read.uri:
            holder["uri"] = str(replace(parse_hub(holder["uri"]), revision=read.revision))


def reseeded(spec: FineTuneJobSpec, values: Values, seed: int) -> Values:
    """The values with another seed of training: `seed` more than that of the spec with these values."""
    trial = FineTuneJobSpec.from_json(overridden(of_one_run(spec), values, FineTuneJobSpec))
    training = trial.resolved_training()
    assert training
    return values | {"training.seed": (training.seed + seed) % SEEDS}


def followed(spec: FineTuneJobSpec, *, stop: bool) -> dict[str, Any]:
    """The parent's fields that its running children follow; None removes one."""
    wire = spec.to_json() | ({"suspend": True} if stop else {})
    return {name: wire.get(name) for name in FOLLOWED}
