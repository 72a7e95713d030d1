"""What is said of a field that does not exist: the setting that other tools have under this name, or a similar one."""

import dataclasses
from collections import Counter

import pytest

from builders import spec
from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.other_names import NAMED, REMEDIES
from finetune_api.overrides import overridden, read_assignment
from finetune_api.unknown_fields import fields_of, hint

FIELDS = set(fields_of(FineTuneJobSpec))
NOT_ASKED_FOR = 0.5
"""Share of the arguments of transformers about logging, launchers and hardware, which no remedy needs to name."""


@pytest.mark.parametrize("remedy", sorted(set(REMEDIES.values())))
def test_a_remedy_names_fields_that_exist_and_values_that_they_take(remedy: str) -> None:
    for field, value in NAMED.findall(remedy):
        assert field in FIELDS
        if value:
            _, parsed = read_assignment(f"{field}={value.removeprefix(': ')}")
            overridden(
                spec(model={"uri": "pvc://a/b", "adapter": {"lora": {}}}), {field: parsed}, FineTuneJobSpec
            )
    assert NAMED.search(remedy) or remedy.endswith("remove it")


def test_no_name_has_two_remedies() -> None:
    from finetune_api import other_names

    names = [
        other_names.folded(name)
        for table in (other_names._FIELDS, other_names._ADVICE)
        for listed in table.values()
        for name in listed.split()
    ]
    assert [name for name, count in Counter(names).items() if count > 1] == []


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("model.load_in_4bit", "write spec.model.weights: NF4, with spec.model.adapter"),
        ("model.quantization", "write spec.model.weights: NF4, with spec.model.adapter"),
        ("model.model_name_or_path", "did you mean spec.model.uri?"),
        ("model.adapter.lora.r", "did you mean spec.model.adapter.lora.rank?"),
        ("model.lora_r", "did you mean spec.model.adapter.lora.rank?"),
        ("model.target_modules", "did you mean spec.model.adapter.lora.targetModules?"),
        ("training.bf16", "write spec.training.precision: BFloat16"),
        ("training.fp16", "float16 is not supported; write spec.training.precision: BFloat16"),
        ("training.per_device_train_batch_size", "did you mean spec.training.microBatchSize?"),
        ("training.perDeviceTrainBatchSize", "did you mean spec.training.microBatchSize?"),
        ("training.gradient_accumulation_steps", "write spec.training.batchSize, the examples"),
        ("training.num_train_epochs", "did you mean spec.training.epochs?"),
        ("training.warmup_ratio", "did you mean spec.training.schedule.warmup.ratio?"),
        ("training.weight_decay", "did you mean spec.training.optimizer.weightDecay?"),
        ("training.gradient_checkpointing", "did you mean spec.training.activationCheckpointing?"),
        ("training.max_seq_length", "did you mean spec.dataset.preprocessing.maxLength?"),
        ("training.deepspeed", "write spec.training.sharding: Full"),
        ("training.fsdp", "write spec.training.sharding: Full"),
        ("training.tensor_parallel_size", "did you mean spec.training.tensorParallel?"),
        ("training.save_steps", "did you mean spec.training.checkpoint.every?"),
        ("training.flash_attention", "attention is chosen by the hardware; remove it"),
        ("dataset.uri", "did you mean spec.dataset.train?"),
        ("dataset.val_set_size", "did you mean spec.dataset.validation.fraction?"),
        ("objective.dpo", "did you mean spec.objective.preference?"),
        ("seed", "did you mean spec.training.seed?"),
        ("training.beta", "did you mean spec.objective.preference.beta?"),
        ("resources.gpus", "did you mean spec.resources.gpusPerNode?"),
        ("backoffLimit", "did you mean spec.retry.limit?"),
        ("queueName", "did you mean spec.scheduling.queue?"),
        ("search.parameters.0.values", "the fields here are path, choice, uniform, logUniform, integer"),
        ("search.parameters.0.log_uniform", "did you mean spec.search.parameters.0.logUniform?"),
        ("search.parameters.0.uniform.low", "the fields here are min, max"),
        ("env.2.val", "did you mean spec.env.2.value?"),
        ("env.2.valueFrom.secret", "did you mean spec.env.2.valueFrom.secretKeyRef?"),
        (
            "training.evaluation.forgetting.0.drop",
            "did you mean spec.training.evaluation.forgetting.0.maxDrop?",
        ),
        ("search.metric", "trials are compared by spec.training.evaluation.bestMetric; remove it"),
        ("resources.gpuType", "did you mean spec.scheduling.nodeSelector?"),
        ("resources.numCpus", "did you mean spec.resources.requests?"),
        ("retry.attempts", "did you mean spec.retry.limit?"),
        ("scheduling.minMember", "did you mean spec.resources.nodes?"),
        ("scheduling.podGroup", "pods are planned by the operator; see spec.resources"),
        ("training.epohcs", "did you mean spec.training.epochs?"),
    ],
)
def test_a_name_of_another_tool_is_answered_with_our_field(path: str, answer: str) -> None:
    assert answer in hint(path, FineTuneJobSpec, "spec.")


def test_a_name_like_no_field_is_answered_with_none() -> None:
    assert hint("training.frobnicate", FineTuneJobSpec) == ""


def test_a_field_of_another_part_is_not_named_where_only_one_part_can_change() -> None:
    assert hint("load_in_4bit", FineTuneJobSpec, suggested=("training",)) == ""


def test_most_arguments_of_transformers_have_an_answer() -> None:
    from transformers import TrainingArguments

    names = [field.name for field in dataclasses.fields(TrainingArguments)]
    answered = [name for name in names if hint(f"training.{name}", FineTuneJobSpec)]
    assert len(answered) / len(names) > NOT_ASKED_FOR
