"""FineTuneJob: the whole spec, and the rules across its parts."""

import re
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from finetune_api.base import ApiModel, Name, Rule, TextRule, Unique, immutable
from finetune_api.combine import METRICS_REPORTED, RULES, VOTES_HAVE_NO_LOSS, CombineRule
from finetune_api.dataset import DatasetSpec, PreprocessingSpec
from finetune_api.ensemble import EnsembleSpec
from finetune_api.gate import GateSpec
from finetune_api.metrics import ALL, COMMON, OBJECTIVES, SHARES, plain, written
from finetune_api.model import Dtype, ModelSpec, frozen_weights_fit_sharding
from finetune_api.objective import ObjectiveSpec, only_for, only_for_language_models
from finetune_api.resources import ResourcesSpec, SchedulingSpec
from finetune_api.search import SearchSpec
from finetune_api.tensor_parallel import tensor_parallel_divides_gpus, tensor_parallel_fits
from finetune_api.training import EvaluationSpec, TrainingSpec
from finetune_api.uris import HUB, ClaimUri, is_hub

Seconds = Annotated[int, Field(ge=0, le=315_360_000)]

_RESERVED_PREFIXES = ("LD_", "PYTHON", "FINETUNE_", "KUBEFLOW_TRAINER_", "KUBERNETES_", "NVIDIA_")
_RESERVED = (
    "PATH",
    "HOME",
    "HF_HOME",
    "HF_TOKEN_PATH",
    "BASH_ENV",
    "ENV",
    "IFS",
    "GCONV_PATH",
    "TMPDIR",
    "MPLCONFIGDIR",
)


def _reserved_cel() -> str:
    prefixes = " || ".join(f"self.startsWith('{prefix}')" for prefix in _RESERVED_PREFIXES)
    names = ", ".join(f"'{name}'" for name in _RESERVED)
    return f"!({prefixes} || self in [{names}])"


EnvName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128),
    TextRule(
        Rule(
            _reserved_cel(),
            "this variable controls the interpreter, the loader or the trainer and cannot be set; choose another name",
            lambda name: not name.startswith(_RESERVED_PREFIXES) and name not in _RESERVED,
        )
    ),
]


class SecretKeySelector(ApiModel):
    """A key of a Secret in the job's namespace."""

    name: Name
    """Name of the Secret."""
    key: Annotated[str, StringConstraints(pattern=r"^[-._a-zA-Z0-9]+$", max_length=253)]
    """Key of the Secret, for example WANDB_API_KEY."""


class EnvVarSource(ApiModel):
    """Where the value of an environment variable comes from."""

    secret_key_ref: SecretKeySelector
    """A key of a Secret in the job's namespace. The kubelet reads it; the operator never does."""


class EnvVar(ApiModel):
    """An environment variable of the training container."""

    rules = (
        Rule(
            "has(self.value) != has(self.valueFrom)",
            "set exactly one of value and valueFrom",
            lambda v: (v.value is None) != (v.value_from is None),
        ),
    )
    name: EnvName
    """Name, for example NCCL_DEBUG."""
    value: Annotated[str, Field(max_length=4096)] | None = None
    """Value, for example WARN."""
    value_from: EnvVarSource | None = None
    """Takes the value from a Secret, for example {secretKeyRef: {name: wandb, key: api-key}}. Whoever creates the job must be allowed to get the Secret."""


class OutputSpec(ApiModel):
    """Where the trained model is written."""

    uri: ClaimUri | None = None
    """Output folder for the model, for example pvc://models/movie-sentiment. Default: pvc://NAME-UID/model, on a PersistentVolumeClaim that the operator creates for this job and never deletes."""
    dtype: Dtype = Dtype.AUTO
    """Number format of the published weights: Float32, BFloat16 (half the size), or Auto for that of the base model. Training always updates the weights in float32."""


class Preflight(StrEnum):
    """Whether a job is checked on a CPU before GPUs are asked for."""

    REQUIRED = "Required"
    SKIP = "Skip"


class RetrySpec(ApiModel):
    """Retries after failures that may be temporary, such as a crash or a lost node."""

    limit: Annotated[int, Field(ge=0, le=100)] = 3
    """Maximum number of retries after failed attempts. Preemptions and node shutdowns do not count."""
    window_seconds: Annotated[int, Field(ge=600, le=315_360_000)] | None = None
    """Only failures within this time count towards limit: a job that runs well for longer has all its retries again. Default: 21600 (6 hours)."""


def _changeable_while_suspended(field: str) -> Rule:
    return Rule(
        f"({immutable('spec', field).cel}) || oldSelf.?suspend.orValue(false)",
        f"spec.{field} can be changed only while spec.suspend is true; suspend the job first, or create a new one",
    )


def _required_without_command(field: str, example: str) -> Rule:
    return Rule(
        f"has(self.command) || has(self.{field})",
        f"spec.{field} is required unless spec.command runs your own script; write for example {example}",
        lambda s: s.command is not None or getattr(s, field) is not None,
    )


def _refused_with_command(field: str) -> Rule:
    return Rule(
        f"!has(self.{field})",
        f"spec.{field} does not apply to your own script (spec.command); remove one of the two",
        lambda s: s.command is None or getattr(s, field) is None,
        needs=("command",),
    )


def _metrics_of(spec: Any) -> list[str]:
    training: TrainingSpec | None = spec.training
    if training is None:
        return []
    stopping = training.early_stopping
    chosen = [training.evaluation.best_metric, *(training.evaluation.metrics or [])]
    return chosen + ([stopping.metric] if stopping and stopping.metric else [])


def _evaluated_metrics(spec: Any) -> list[str]:
    training: TrainingSpec | None = spec.training
    return (training and training.evaluation.metrics) or []


def _metrics_fit(objective: str) -> Rule:
    known = OBJECTIVES[objective]
    others = [name for name in ALL if name not in known | COMMON]
    names = ", ".join(f"'{prefix}{name}'" for name in others for prefix in ("", "eval_"))
    field = ObjectiveSpec.model_fields[objective].alias
    evaluation, stopping = "training.evaluation", "training.earlyStopping"
    cel = (
        f"!has(objective.{field})"
        f" || !((has({evaluation}) && has({evaluation}.bestMetric) && {evaluation}.bestMetric in [{names}])"
        f" || (has({evaluation}) && has({evaluation}.metrics) && self.{evaluation}.metrics.exists(m, m in [{names}]))"
        f" || (has({stopping}) && has({stopping}.metric) && {stopping}.metric in [{names}]))"
    )
    return Rule(
        cel,
        f"spec.training names a metric that {field} does not have; use loss, {', '.join(known)}",
        lambda s: (
            s.objective is None
            or s.objective.kind != objective
            or not any(plain(metric) in others for metric in _metrics_of(s))
        ),
        ".training",
        needs=("objective", "training"),
    )


def _gate_fits(objective: str) -> Rule:
    known, field = OBJECTIVES[objective], ObjectiveSpec.model_fields[objective].alias
    fitting = ", ".join(f"'{prefix}{name}'" for name in known | COMMON for prefix in ("", "eval_"))
    return Rule(
        f"!has(objective.{field}) || gate.metric in [{fitting}]",
        f"spec.gate.metric for objective.{field} is one of loss, {', '.join(known)}",
        lambda s: (
            s.gate is None
            or s.objective is None
            or s.objective.kind != objective
            or plain(s.gate.metric) in known | COMMON
        ),
        ".gate.metric",
        needs=("gate", "objective"),
    )


def _combine_fits(objective: str) -> Rule:
    fitting, field = RULES[objective], ObjectiveSpec.model_fields[objective].alias
    names = ", ".join(f"'{rule}'" for rule in fitting)
    return Rule(
        f"!has(objective.{field}) || !has(ensemble.combine) || ensemble.combine in [{names}]",
        f"spec.ensemble.combine for objective.{field} is one of {', '.join(fitting)}",
        lambda s: (
            s.objective is None
            or s.objective.kind != objective
            or s.ensemble is None
            or s.ensemble.combine in (None, *fitting)
        ),
        ".ensemble.combine",
        needs=("ensemble", "objective"),
    )


def _hub_uris(spec: Any) -> list[str]:
    """The hf:// URIs that a job reads."""
    model, data = spec.model, spec.dataset
    found = [model.uri, model.tokenizer and model.tokenizer.uri] if model else []
    found += [part.uri for part in (data.train, data.validation, data.test) if part] if data else []
    return [uri for uri in found if is_hub(uri)]


def _credentials_for_the_hub() -> Rule:
    on_hub = f".uri.startsWith('{HUB}')"
    data = " || ".join(
        f"(has(self.dataset.{part}) && has(self.dataset.{part}.uri) && self.dataset.{part}{on_hub})"
        for part in ("validation", "test")
    )
    return Rule(
        f"!has(model.credentials) || model{on_hub}"
        f" || (has(model.tokenizer) && has(model.tokenizer.uri) && model.tokenizer{on_hub})"
        f" || (has(self.dataset) && (self.dataset.train{on_hub} || {data}))",
        "spec.model.credentials is for models and data on the Hugging Face Hub (hf://); claims need none; remove it",
        lambda s: s.model is None or s.model.credentials is None or bool(_hub_uris(s)),
        ".model.credentials",
        needs=("model",),
    )


MAX_SECRET_VARIABLES = 16
"""The chart's policy asks for each, and the API server's budget for a policy covers 28 questions."""


def _few_from_secrets() -> Rule:
    return Rule(
        f"self.env.filter(v, has(v.valueFrom)).size() <= {MAX_SECRET_VARIABLES}",
        f"at most {MAX_SECRET_VARIABLES} variables of spec.env can come from Secrets; store several settings in one value",
        lambda s: sum(v.value_from is not None for v in s.env or []) <= MAX_SECRET_VARIABLES,
        ".env",
        needs=("env",),
    )


RANK_VARIABLES = (
    "PET_NNODES",
    "PET_NPROC_PER_NODE",
    "PET_NODE_RANK",
    "PET_MASTER_ADDR",
    "PET_MASTER_PORT",
    "MASTER_ADDR",
    "MASTER_PORT",
    "NODE_RANK",
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "JOB_COMPLETION_INDEX",
)
"""Variables by which the processes of several nodes find each other."""


def _nodes(spec: Any) -> int:
    return (spec.resources and spec.resources.nodes) or 1


def _for_several_nodes(field: str, cel: str, message: str, used: Callable[[Any], bool]) -> Rule:
    several = "(has(self.resources) && has(self.resources.nodes) && self.resources.nodes > 1)"
    return Rule(
        f"!({cel}) || {several}",
        message,
        lambda s: not used(s) or _nodes(s) > 1,
        field,
        needs=("scheduling",),
    )


def _ranks_are_the_operators() -> Rule:
    names = ", ".join(f"'{name}'" for name in RANK_VARIABLES)
    return Rule(
        f"!has(resources.nodes) || resources.nodes == 1 || self.env.all(v, !(v.name in [{names}]))",
        "with spec.resources.nodes of 2 or more the operator sets RANK, WORLD_SIZE, MASTER_ADDR, PET_NODE_RANK and"
        " alike for every pod; remove them from spec.env",
        lambda s: _nodes(s) == 1 or not any(v.name in RANK_VARIABLES for v in s.env or []),
        ".env",
        needs=("env", "resources"),
    )


LONGEST_PARENT_URI, LONGEST_PARENT_FOLDER = 500, 119
"""Of 512 and 127 characters, without those of -members/m32 and of -members."""


def _has_room(uri: str | None) -> bool:
    return uri is None or (
        len(uri) <= LONGEST_PARENT_URI and len(uri.split("/")[-1]) <= LONGEST_PARENT_FOLDER
    )


IMMUTABLE = (
    "model",
    "dataset",
    "objective",
    "training",
    "preflight",
    "retry",
    "output",
    "gate",
    "image",
    "command",
    "env",
)
WHILE_SUSPENDED = ("resources", "scheduling")


class FineTuneJobSpec(ApiModel):
    """Specification of a fine-tuning job: model, data, objective, training settings and resources."""

    rules = (
        _required_without_command("model", "{uri: pvc://models/minilm}"),
        _required_without_command("dataset", "{train: {uri: pvc://data/train.jsonl}}"),
        _required_without_command("objective", "{classification: {}}"),
        _refused_with_command("objective"),
        _refused_with_command("training"),
        _refused_with_command("gate"),
        _refused_with_command("search"),
        _refused_with_command("ensemble"),
        _refused_with_command("preflight"),
        only_for(
            ("classification",),
            ".dataset.validation.stratify",
            "has(dataset.validation) && has(dataset.validation.stratify) && dataset.validation.stratify",
            lambda dataset: bool(dataset.validation and dataset.validation.stratify),
            "spec.dataset.validation.stratify needs one label per text; remove it, or use objective.classification",
        ),
        *only_for_language_models("spec."),
        frozen_weights_fit_sharding("spec."),
        *tensor_parallel_fits("spec."),
        tensor_parallel_divides_gpus(),
        _credentials_for_the_hub(),
        _few_from_secrets(),
        _ranks_are_the_operators(),
        _for_several_nodes(
            ".scheduling.topologyKey",
            "has(scheduling.topologyKey)",
            "spec.scheduling.topologyKey keeps the pods of a job on several nodes together; write resources.nodes: 2 or"
            " more, or remove it",
            lambda s: bool(s.scheduling and s.scheduling.topology_key),
        ),
        *map(_metrics_fit, OBJECTIVES),
        *map(_gate_fits, OBJECTIVES),
        Rule(
            "!has(training.evaluation) || !has(training.evaluation.forgetting)"
            " || self.training.evaluation.forgetting.size() == 0 || !(has(self.search) || has(self.ensemble))",
            "spec.training.evaluation.forgetting is not supported with spec.search or spec.ensemble; remove it, and train"
            " the best values in a job that has it",
            lambda s: (
                not (s.search or s.ensemble) or s.training is None or not s.training.evaluation.forgetting
            ),
            ".training.evaluation.forgetting",
            needs=("training",),
        ),
        Rule(
            "!has(training.evaluation) || !has(training.evaluation.forgetting)"
            " || !((has(self.gate) ? self.gate.metric : has(training.evaluation.bestMetric)"
            f" ? training.evaluation.bestMetric : 'eval_loss') in {written(SHARES)})"
            " || self.training.evaluation.forgetting.all(each, !has(each.maxDrop) || each.maxDrop < 1.0)",
            "maxDrop is 1 or more, by which a metric from 0 to 1 cannot become worse, so no model would be refused; for 2"
            " percentage points write 0.02",
            lambda s: (
                s.training is None
                or plain(s.gate.metric if s.gate else s.training.evaluation.best_metric) not in SHARES
                or all((each.max_drop or 0) < 1 for each in s.training.evaluation.forgetting)
            ),
            ".training.evaluation.forgetting",
            needs=("training",),
        ),
        Rule(
            "has(objective.causalLM) || !has(training.evaluation) || !has(training.evaluation.samples)"
            " || training.evaluation.samples == 0",
            "spec.training.evaluation.samples is for objective.causalLM, whose model writes text; remove it",
            lambda s: (
                s.objective is None
                or s.objective.kind == "causal_lm"
                or s.training is None
                or not s.training.evaluation.samples
            ),
            ".training.evaluation.samples",
            needs=("objective", "training"),
        ),
        Rule(
            "!has(gate.betterThanBaselineBy)",
            "spec.gate.betterThanBaselineBy is not supported with spec.ensemble, which reports the gain over its members;"
            " set spec.gate.min or max",
            lambda s: s.gate is None or s.ensemble is None or s.gate.better_than_baseline_by is None,
            ".gate",
            needs=("gate", "ensemble"),
        ),
        *(immutable("spec", field) for field in IMMUTABLE),
        Rule(
            "has(self.search) == has(oldSelf.search)",
            "spec.search cannot be added or removed after creation; create a new FineTuneJob under another name",
        ),
        Rule(
            "has(self.ensemble) == has(oldSelf.ensemble)",
            "spec.ensemble cannot be added or removed after creation; create a new FineTuneJob under another name",
        ),
        Rule(
            "has(self.search) == has(ensemble.fromSearch)",
            "spec.ensemble.fromSearch combines the best trials of spec.search: set both, or search the values first and"
            " train members with them in another FineTuneJob",
            lambda s: s.ensemble is None or (s.search is None) == (s.ensemble.from_search is None),
            ".ensemble",
            needs=("ensemble",),
        ),
        *(_combine_fits(objective) for objective, fitting in RULES.items() if fitting),
        Rule(
            "!has(objective.preference)",
            "spec.ensemble does not combine models of objective.preference; remove it, or use spec.search for the best of"
            " several",
            lambda s: s.objective is None or s.objective.preference is None or s.ensemble is None,
            ".ensemble",
            needs=("ensemble", "objective"),
        ),
        Rule(
            "!has(objective.preference) || !has(model.head)",
            "spec.model.head makes one vector of a text, but objective.preference predicts tokens; remove it",
            lambda s: (
                s.objective is None
                or s.objective.preference is None
                or s.model is None
                or s.model.head is None
            ),
            ".model.head",
            needs=("objective", "model"),
        ),
        Rule(
            "!has(objective.regression) || !has(ensemble.distil) || !has(ensemble.distil.temperature)",
            "spec.ensemble.distil.temperature is for probabilities, and objective.regression predicts numbers; remove it",
            lambda s: (
                s.objective is None
                or s.objective.regression is None
                or s.ensemble is None
                or s.ensemble.distil is None
                or s.ensemble.distil.temperature is None
            ),
            ".ensemble.distil.temperature",
            needs=("ensemble", "objective"),
        ),
        Rule(
            "!has(ensemble.combine) || ensemble.combine != 'Vote'"
            " || (has(self.training) && has(self.training.evaluation) && has(self.training.evaluation.bestMetric)"
            " && !(self.training.evaluation.bestMetric in ['loss', 'eval_loss']))",
            VOTES_HAVE_NO_LOSS.format("spec.training.evaluation.bestMetric"),
            lambda s: (
                s.ensemble is None
                or s.ensemble.combine is not CombineRule.VOTE
                or plain((s.training or TrainingSpec()).evaluation.best_metric) != "loss"
            ),
            ".ensemble.combine",
            needs=("ensemble",),
        ),
        Rule(
            "!has(training.evaluation) || !has(training.evaluation.metrics)"
            f" || self.training.evaluation.metrics.size() <= {METRICS_REPORTED} - (has(self.gate) ? 1 : 0)",
            f"a job with spec.ensemble has at most {METRICS_REPORTED} metrics, with that of spec.gate: each is reported for the combination, the mean"
            " member and the best member; remove some from spec.training.evaluation.metrics",
            lambda s: (
                s.ensemble is None or len(_evaluated_metrics(s)) <= METRICS_REPORTED - (s.gate is not None)
            ),
            ".training.evaluation.metrics",
            needs=("ensemble", "training"),
        ),
        Rule(
            "!(has(self.search) || has(self.ensemble)) || !has(output.uri)"
            f" || (self.output.uri.size() <= {LONGEST_PARENT_URI} && !self.output.uri.matches('[^/]{{{LONGEST_PARENT_FOLDER + 1}}}$'))",
            f"spec.output.uri of a job with spec.search or spec.ensemble must have at most {LONGEST_PARENT_URI} characters, and"
            f" its last folder at most {LONGEST_PARENT_FOLDER}: models of trials and members are beside it, with -trials or"
            " -members added",
            lambda s: not (s.search or s.ensemble) or _has_room(s.output and s.output.uri),
            ".output.uri",
            needs=("output",),
        ),
        *map(_changeable_while_suspended, WHILE_SUSPENDED),
    )
    model: ModelSpec | None = None
    """The pretrained model to fine-tune."""
    dataset: DatasetSpec | None = None
    """Training, validation and test data, and their preprocessing."""
    objective: ObjectiveSpec | None = None
    """What the model learns: classification, regression, token classification, causal language modelling or preferences."""
    training: TrainingSpec | None = None
    """Training settings. Default: AdamW with learning rate 5e-5 and batch size 32, for 3 epochs."""
    search: SearchSpec | None = None
    """Hyperparameter search: trials of this job with other values in some fields. They are compared by training.evaluation.bestMetric on the same validation rows; the model of the best one is status.model."""
    ensemble: EnsembleSpec | None = None
    """Train several models and combine them into one. Members differ in their seed or in some fields, or are the best trials of spec.search. All are evaluated on the same validation rows."""
    resources: ResourcesSpec | None = None
    """CPU, memory and GPUs of the training pods. Can be changed while the job is suspended."""
    scheduling: SchedulingSpec | None = None
    """Node selector, tolerations and priority of the training pods. Can be changed while the job is suspended."""
    preflight: Preflight | None = None
    """Required: check data, model, output and memory in a pod without GPUs before the first attempt; a job that would fail asks for no GPU. status.preflight has what was found. Skip: begin with the first attempt, whose first seconds check the same. Default: set by the administrator, usually Required, and Skip for jobs without GPUs."""
    retry: RetrySpec = RetrySpec()
    """Retries after failures that may be temporary, such as a crash or a lost node."""
    output: OutputSpec | None = None
    """Where the trained model is written."""
    gate: GateSpec | None = None
    """What the trained model must reach to be published. Of a search or an ensemble, the model that it publishes."""
    suspend: bool = False
    """true saves a checkpoint, stops the pods and releases their resources. false resumes from the checkpoint."""
    active_deadline_seconds: Annotated[int, Field(ge=1, le=315_360_000)] | None = None
    """Maximum running time of the job in seconds, over all attempts. Time spent pending or suspended does not count. Of a search or an ensemble: from its first trial or member on, with the time that they wait, but not that in which the job is suspended. For example 7200."""
    startup_deadline_seconds: Annotated[int, Field(ge=30, le=31_536_000)] | None = None
    """Maximum time in seconds from the start of an attempt, or of preflight, until its container runs, whatever it waits for; time in a queue of Kueue does not count. Without it, a pod may wait for a node as long as it takes, but only half an hour (or what the administrator sets) for an image, a Secret or a volume."""
    ttl_seconds_after_finished: Seconds | None = None
    """Seconds after which the pods of a finished job are deleted. The FineTuneJob and its model are kept. For example 86400."""
    image: Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=r"^[!-~]+$")] | None = None
    """Trainer image to use instead of the default, if the administrator allows it."""
    command: (
        Annotated[list[Annotated[str, Field(max_length=4096)]], Field(min_length=1, max_length=64)] | None
    ) = None
    """Command that runs your own training script instead of the built-in trainer, for example [python, /scripts/train.py]. The environment has FINETUNE_MODEL_DIR, FINETUNE_TRAIN_FILE, FINETUNE_VALIDATION_FILE, FINETUNE_TEST_FILE, FINETUNE_OUTPUT_DIR and FINETUNE_CHECKPOINT_DIR, and for hf:// inputs FINETUNE_MODEL_URI, FINETUNE_TRAIN_URI and so on. Exit code 0 means success. Scripts that use Hugging Face's Trainer report progress automatically."""
    env: Annotated[list[EnvVar], Field(max_length=64), Unique("name")] | None = None
    """Environment variables of the training container."""

    def resolved_training(self) -> TrainingSpec | None:
        """`training` with every default filled in; None for a job with `command`."""
        if self.objective is None:
            return None
        preprocessing = self.dataset.preprocessing if self.dataset else PreprocessingSpec()
        training = (self.training or TrainingSpec()).resolved(self.objective.kind, preprocessing.max_length)
        if self.gate is None:
            return training
        return training.model_copy(update={"evaluation": _with_gate(training.evaluation, self.gate)})


def _with_gate(evaluation: EvaluationSpec, gate: GateSpec) -> EvaluationSpec:
    """The evaluation, with all that the gate compares."""
    metrics, name = evaluation.metrics or [], plain(gate.metric)
    measured = {plain(each) for each in metrics} | set(COMMON)
    return evaluation.model_copy(
        update={
            "metrics": metrics if name in measured else [*metrics, name],
            "baseline": evaluation.baseline or gate.better_than_baseline_by is not None,
        }
    )


_JOB_NAME = "^[a-z]([-a-z0-9]*[a-z0-9])?$"
LONGEST_PARENT_NAME = 26


def _name(job: dict[str, Any]) -> str:
    return str((job.get("metadata") or {}).get("name", ""))


def _while_the_search_runs(field: str) -> Rule:
    return Rule(
        "!has(oldSelf.status) || !has(oldSelf.status.trials) || !has(oldSelf.status.trials.end) || !has(self.spec.search)"
        f" || !has(self.spec.search.{field}) || !has(oldSelf.spec.search) || !has(oldSelf.spec.search.{field})"
        f" || self.spec.search.{field} == oldSelf.spec.search.{field}",
        f"the search has ended, so raising spec.search.{field} has no effect; create a new FineTuneJob under another name",
    )


JOB_RULES = (
    Rule(
        f"size(self.metadata.name) <= 40 && self.metadata.name.matches('{_JOB_NAME}')",
        "metadata.name must have at most 40 characters of a-z, 0-9 and '-', and start with a letter: it is part of"
        " the pods' names",
        lambda job: len(_name(job)) <= 40 and re.fullmatch(_JOB_NAME, _name(job)) is not None,
    ),
    Rule(
        f"size(self.metadata.name) <= {LONGEST_PARENT_NAME} || !(has(self.spec.search) || has(self.spec.ensemble))",
        f"metadata.name of a job with spec.search or spec.ensemble must have at most {LONGEST_PARENT_NAME} characters:"
        " it is part of the names of trials and members",
        lambda job: (
            not any((job.get("spec") or {}).get(part) for part in ("search", "ensemble"))
            or len(_name(job)) <= LONGEST_PARENT_NAME
        ),
    ),
    *map(_while_the_search_runs, ("maxTrials", "maxDeviceSeconds")),
)
"""Rules on the whole object, whose `holds` takes its wire form."""
