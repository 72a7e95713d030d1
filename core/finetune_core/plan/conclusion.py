"""What a pod of a search or an ensemble itself reads: a CombineConfig or a SummaryConfig.

It needs no GPU, unless it trains a student.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from finetune_api import uris
from finetune_api.combine import (
    CombineConfig,
    CombineData,
    CombinePaths,
    DistilSpec,
    MemberInput,
    StudentInput,
)
from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.model import Dtype
from finetune_api.overrides import overridden
from finetune_api.resources import Quantities, amount_of
from finetune_api.run import TERMINATION_LOG
from finetune_api.search_history import SearchHistory
from finetune_api.status import TrialState
from finetune_api.summary import SummaryConfig
from finetune_api.training import Precision
from finetune_core.plan.effective import Resolved
from finetune_core.plan.finetunejob import FineTuneJob, of_one_run
from finetune_core.plan.run_config import (
    METRICS_PORT,
    dataset_input,
    devices,
    identity,
    model_input,
    progress_endpoint,
)
from finetune_core.plan.volumes import OUTPUT, output_paths, shared_tokens, student_folder
from finetune_core.settings import OperatorSettings

_ENOUGH = {"search": {"cpu": "1", "memory": "2Gi"}, "ensemble": {"cpu": "4"}}
"""Requests of a pod that trains nothing, where training asks for more: it copies a model, or computes some outputs."""


def of_one_pod(resolved: Resolved, *, trains: bool) -> Resolved:
    """The same with the resources of the one pod of a search or an ensemble, without devices if it trains nothing."""
    asked, update = resolved.resources, dict[str, Any](nodes=1)
    if not trains:
        update |= {"gpus_per_node": 0, "claims": None}
        update |= {"requests": _without_devices(asked.requests), "limits": _without_devices(asked.limits)}
    return replace(resolved, resources=asked.model_copy(update=update))


def _without_devices(quantities: Quantities | None) -> Quantities:
    return {name: quantity for name, quantity in (quantities or {}).items() if "/" not in name}


def with_less(resolved: Resolved, of: str) -> Resolved:
    """The same with requests for what such a pod needs; it may still use what the limits allow."""
    asked = resolved.resources.requests or {}
    most = _ENOUGH[of]
    less = {
        name: most[name] if name in most and amount_of(given) > amount_of(most[name]) else given
        for name, given in ((resolved.resources.limits or {}) | asked).items()
        if name in asked or name in most
    }
    return replace(resolved, resources=resolved.resources.model_copy(update={"requests": less}))


def conclusion_config(
    job: FineTuneJob,
    resolved: Resolved,
    attempt: int,
    settings: OperatorSettings,
    history: SearchHistory | None,
) -> CombineConfig | SummaryConfig:
    """The configuration of an attempt of a search, whose `history` it reports, or of an ensemble."""
    if job.spec.ensemble:
        return _combine(job, resolved, attempt, settings, history)
    assert history and job.status.model
    return SummaryConfig(
        kind="SummaryConfig",
        job=identity(job, attempt),
        search=history,
        model=_member(job.status.model.uri, job.status.model.digest),
        gate=job.spec.gate,
        output=_paths(job, resolved),
        progress=progress_endpoint(settings),
        metrics_port=METRICS_PORT,
        termination_log=TERMINATION_LOG,
    )


def _combine(
    job: FineTuneJob,
    resolved: Resolved,
    attempt: int,
    settings: OperatorSettings,
    history: SearchHistory | None,
) -> CombineConfig:
    ensemble, objective, training = job.spec.ensemble, job.spec.objective, job.spec.resolved_training()
    assert ensemble and objective and training
    members = [one for one in job.status.members if one.state is TrialState.SUCCEEDED and one.uri]
    missing = [one.name for one in job.status.members if one not in members]
    data, student = dataset_input(job), None
    if job.distils:
        student = _student(job, history.best_trial.parameters if history and history.best_trial else {})
    split = data.split and data.split.model_copy(
        update={"seed": training.seed if data.split.seed is None else data.split.seed}
    )
    return CombineConfig(
        kind="CombineConfig",
        job=identity(job, attempt),
        members=[_member(str(one.uri), one.digest) for one in members],
        combine=ensemble.rule(objective.kind),
        gate=job.spec.gate,
        student=student,
        publish=ensemble.publish,
        best_metric=training.evaluation.best_metric,
        missing=missing,
        dataset=CombineData(
            train=data.train,
            validation=data.validation,
            split=split,
            test=data.test,
            columns=data.columns,
            rows=data.rows,
            preprocessing=data.preprocessing,
            max_invalid_rows=data.max_invalid_rows,
        ),
        objective=objective,
        metrics=training.evaluation.metrics,
        search=history,
        output=_paths(job, resolved),
        devices=devices(resolved, settings),
        precision=training.precision if student else _precision(training.precision),
        progress=progress_endpoint(settings),
        metrics_port=METRICS_PORT,
        termination_log=TERMINATION_LOG,
    )


def _student(job: FineTuneJob, values: Mapping[str, Any]) -> StudentInput:
    """The job's own run, with the values of the best trial where it was searched."""
    spec = FineTuneJobSpec.from_json(overridden(of_one_run(job.spec), values, FineTuneJobSpec))
    training = spec.resolved_training()
    assert spec.model and training and job.spec.ensemble
    return StudentInput(
        model=model_input(job, spec.model),
        objective=None if spec.objective == job.spec.objective else spec.objective,
        training=training,
        distil=job.spec.ensemble.distil or DistilSpec(),
        dtype=spec.output.dtype if spec.output else Dtype.AUTO,
        work_dir=student_folder(job.uid),
    )


def _precision(trained: Precision) -> Precision:
    """BFloat16 is asked of the devices that train: the CPU of this pod computes in it if it can."""
    return Precision.AUTO if trained is Precision.BFLOAT16 else trained


def _member(uri: str, digest: str | None) -> MemberInput:
    """A model on the output claim, where that of every run is."""
    return MemberInput(path=on_output(uri), uri=uri, digest=digest)


def on_output(uri: str) -> str:
    """Where a folder of the output claim is found in the container."""
    return f"{OUTPUT}/{uris.parse(uri).path}"


def _paths(job: FineTuneJob, resolved: Resolved) -> CombinePaths:
    paths = output_paths(job, resolved.output_uri)
    return CombinePaths(
        model_dir=paths.model_dir,
        staging_dir=paths.staging_dir,
        hub_dir=paths.hub_dir,
        token_dir=shared_tokens(job.uid),
        uri=paths.uri,
    )
