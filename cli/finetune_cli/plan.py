"""The objects that the operator would create for a job, without a cluster. Pure."""

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.overrides import read_assignment
from finetune_cli.errors import CommandError
from finetune_core.ensemble.members import values_of
from finetune_core.plan.claims import gpus_are_claimed, templates_of
from finetune_core.plan.effective import Resolved, resolve
from finetune_core.plan.finetunejob import FineTuneJob
from finetune_core.plan.naming import Run
from finetune_core.plan.preflight import preflight_plan, wants_preflight
from finetune_core.plan.reading import parse
from finetune_core.plan.workload import output_claim, plan
from finetune_core.search.plan import run_body
from finetune_core.search.samplers import propose
from finetune_core.settings import OperatorSettings

Body = dict[str, Any]

UID = "00000000-0000-0000-0000-000000000000"
IMAGE = "TRAINER-IMAGE"
CA = "CERTIFICATE-OF-THE-OPERATOR"


def settings_from(assignments: list[str]) -> OperatorSettings:
    """The administrator's settings: defaults, and NAME=VALUE for others. Raises CommandError."""
    try:
        given = dict(map(read_assignment, assignments))
        return OperatorSettings(**({"trainer_image": IMAGE} | given))
    except ValidationError as error:
        first = error.errors()[0]
        raise CommandError(
            f"--setting {'.'.join(map(str, first['loc']))}: {first['msg']}; settings are those of the operator"
            f" ({', '.join(sorted(OperatorSettings.model_fields))})"
        ) from error
    except ValueError as error:
        raise CommandError(f"--setting {error}") from error


def planned(written: Body, namespace: str, settings: OperatorSettings) -> list[Body]:
    """The objects, in the order of creation; of a search or an ensemble its claim and its first runs."""
    meta = {"namespace": namespace} | written["metadata"] | {"uid": UID, "generation": 1}
    job = parse(written | {"metadata": meta})
    resolved = resolve(job, settings)
    first = _preflight(job, resolved, settings)
    if job.is_parent:
        claim = output_claim(job, settings)
        return [*first, *([claim] if claim else []), *_runs(job, resolved)]
    found = plan(job, resolved, 1, settings, CA)
    made = (found.claim, found.config_map, found.service, found.job)
    return [*first, *(one for one in made if one)]


def unknown_without_a_cluster(written: Body) -> str | None:
    """What of a plan only the cluster knows."""
    resources = FineTuneJobSpec.from_json(written["spec"]).resources
    name, templates = written["metadata"]["name"], ", ".join(templates_of(resources))
    if not templates:
        return None
    if not gpus_are_claimed(resources):
        return (
            f"{name}: the job begins if ResourceClaimTemplate {templates} in the cluster asks for no GPUs, which"
            " gpusPerNode: 0 would not use"
        )
    return (
        f"{name}: the number of GPUs is that of ResourceClaimTemplate {templates} in the"
        " cluster; run.json has 0 here"
    )


def _preflight(job: FineTuneJob, resolved: Resolved, settings: OperatorSettings) -> list[Body]:
    """What checks the job first; as on a cluster where the output claim that it names has a volume."""
    if not wants_preflight(job, resolved, settings):
        return []
    bound = bool(job.spec.output and job.spec.output.uri)
    found = preflight_plan(job, resolved, 1, settings, CA, output_bound=bound)
    return [one for one in (found.config_map, found.job) if one]


def _runs(job: FineTuneJob, resolved: Resolved) -> Iterator[Body]:
    """The runs that are known before the first one ends: the first trial, or the members."""
    spec = job.spec
    if spec.search:
        training = spec.resolved_training()
        assert training
        values = propose(spec, 1, [], training.evaluation.best_metric)
        if values is not None:
            yield run_body(job, resolved, Run(1), values)
    elif spec.ensemble:
        for member in range(1, spec.ensemble.size + 1):
            yield run_body(job, resolved, Run(member=member), values_of(spec, member))
