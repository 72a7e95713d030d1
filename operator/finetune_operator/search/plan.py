"""The FineTuneJob of a trial or of a repetition. Pure."""

from dataclasses import replace
from typing import Any

from finetune_api import API_VERSION, KIND
from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.overrides import overridden
from finetune_api.status import ResolvedData, ResolvedModel, ResolvedStatus
from finetune_api.uris import is_hub, parse_hub
from finetune_operator.plan.effective import Resolved
from finetune_operator.plan.finetunejob import FineTuneJob
from finetune_operator.plan.naming import Run, owner_reference, run_labels, run_name
from finetune_operator.search.space import Values, without_search

SEEDS = 2**31
_THE_PARENTS = ("suspend", "activeDeadlineSeconds")
FOLLOWED = ("suspend", "resources", "scheduling")
"""Fields that a running trial takes from its parent when they change."""


def run_body(job: FineTuneJob, resolved: Resolved, run: Run, values: Values) -> dict[str, Any]:
    """The FineTuneJob of a trial or of a repetition: the parent's spec with these values and another output folder.

    The rows are split with the parent's seed, so that all trials are evaluated on the same ones, and what is on the Hub
    is read at the commit that the first trial read.
    """
    spec = {name: part for name, part in without_search(job.spec).items() if name not in _THE_PARENTS} | {
        "output": _output(job, resolved, run)
    }
    spec["dataset"] = spec["dataset"] | {"validation": _validation(job.spec)}
    _pin(spec, job.status.resolved)
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": run_name(job, run),
            "namespace": job.namespace,
            "labels": run_labels(job, run),
            "ownerReferences": [owner_reference(job)],
        },
        "spec": overridden(spec, values, FineTuneJobSpec),
    }


def _output(job: FineTuneJob, resolved: Resolved, run: Run) -> dict[str, Any]:
    asked = job.spec.output.to_json() if job.spec.output else {}
    return asked | {"uri": f"{resolved.output_uri}/trials/{run.suffix}"}


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


def repeated(spec: FineTuneJobSpec, values: Values, seed: int) -> Values:
    """A trial's values with another seed of training."""
    trial = FineTuneJobSpec.from_json(overridden(without_search(spec), values, FineTuneJobSpec))
    training = trial.resolved_training()
    assert training
    return values | {"training.seed": (training.seed + seed) % SEEDS}


def followed(spec: FineTuneJobSpec, *, stop: bool) -> dict[str, Any]:
    """The parent's fields that its running trials follow; None removes one."""
    wire = spec.to_json() | ({"suspend": True} if stop else {})
    return {name: wire.get(name) for name in FOLLOWED}
