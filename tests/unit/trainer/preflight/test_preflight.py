"""Preflight finds on a CPU what would end the run, and what it estimates is what a run then needs."""

import ctypes
import json
import os
import resource
import shutil
from pathlib import Path

import pytest

from finetune_api.run import ExitCode, RunReport
from unit.trainer.architectures import build
from unit.trainer.data.chat.models import build_llama, chats
from unit.trainer.forks import fork
from unit.trainer.tiny import BAD as BAD_WORDS
from unit.trainer.tiny import GOOD, SPECIAL, WORDS, Job, build_model, job, reviews, write_jsonl

ROW = 6


def config(job: Job, **changes):
    """The preflight of a run."""
    return {
        "kind": "PreflightConfig",
        "run": job.config,
        "workDir": str(job.folder / "scratch"),
        "terminationLog": str(job.folder / "report.json"),
    } | changes


def check(job: Job, **changes) -> tuple[int, RunReport]:
    """Run it; the exit code and the report."""
    from finetune_trainer.__main__ import main

    path = job.folder / "preflight.json"
    path.write_text(json.dumps(config(job, **changes)))
    code = main([str(path)])
    return code, RunReport.model_validate_json((job.folder / "report.json").read_text())


def left(job: Job) -> list[str]:
    """Files that lie in the output."""
    root = job.folder / "out"
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_a_good_run_is_described(make_job):
    doubled = [*reviews(64), *reviews(4)]
    code, report = check(make_job(rows=doubled, dataset={"preprocessing": {"deduplicate": "Exact"}}))
    assert code == ExitCode.DONE, report.message
    found = report.preflight
    assert (found.train_rows + found.validation_rows, found.duplicate_rows, found.labels) == (64, 4, 2)
    assert (found.leaked_rows, found.invalid_rows, found.truncated_share) == (0, 0, 0.0)
    assert 0 < found.trained_parameters == found.parameters
    assert report.resolved.train.tokens == found.tokens > 0
    assert report.effective.labels == ["neg", "pos"]
    assert found.memory.total == sum(
        (found.memory.weights, found.memory.gradients, found.memory.optimizer, found.memory.activations)
    )
    assert found.memory.optimizer == 2 * found.memory.gradients == 8 * found.trained_parameters
    assert "about" in report.message
    assert found.time.step_seconds > 0
    assert found.time.basis.endswith("TFLOP/s measured with matrix products in preflight's pod")
    assert found.time.basis in report.message


def test_the_run_that_follows_uses_its_tokens(make_job):
    job = make_job()
    assert check(job)[0] == ExitCode.DONE
    assert job.run_apart() == ExitCode.DONE
    assert job.log.count("are there from an earlier attempt") == 2


def test_without_the_output_claim_nothing_is_written_to_it(make_job):
    job = make_job()
    code, report = check(job, outputMounted=False, outputSize=2**40)
    assert code == ExitCode.DONE, report.message
    assert left(job) == []
    assert not (job.folder / "scratch").exists()
    assert report.preflight.disk.free == 2**40


BAD = {
    "a row without label": ({}, [*reviews(40), {"text": "x"}], ExitCode.DATA, "row 41"),
    "a target that is no layer": (
        {"model": {"adapter": {"lora": {"targetModules": ["nothing"]}}}},
        None,
        ExitCode.CONFIGURATION,
        "the model has no linear layer 'nothing'",
    ),
    "more frozen layers than there are": (
        {"model": {"freeze": {"layers": 9}}},
        None,
        ExitCode.CONFIGURATION,
        "model.freeze.layers is 9",
    ),
    "a model that tensor groups cannot divide": (
        {"training": {"tensorParallel": 2}, "devices": {"gpus": 2}},
        None,
        ExitCode.CONFIGURATION,
        "transformers has no plan for BertModel",
    ),
    "GPUs that tensor groups leave over": (
        {"training": {"tensorParallel": 2}, "devices": {"gpus": 3}},
        None,
        ExitCode.CONFIGURATION,
        "training.tensorParallel is 2, which does not divide the 3 processes",
    ),
    "a model that is not there": (
        {"model": {"path": "/nowhere"}},
        None,
        ExitCode.NOT_FOUND,
        "does not exist; check the path",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_would_end_the_run_ends_preflight_and_leaves_nothing(make_job, name):
    changes, rows, code, part = BAD[name]
    job = make_job(rows=rows, **changes)
    ended, report = check(job)
    assert (ended, part in report.message) == (code, True), report.message
    assert left(job) == []


def test_a_new_head_has_nothing_to_forget_and_a_known_one_has(make_job, tmp_path, model_folder):
    from transformers import AutoModelForSequenceClassification

    known = shutil.copytree(model_folder, tmp_path / "known")
    labels = {0: "neg", 1: "pos"}
    AutoModelForSequenceClassification.from_pretrained(
        model_folder, id2label=labels, label2id={label: number for number, label in labels.items()}
    ).save_pretrained(known)
    other = {"uri": "pvc://data/other.jsonl"}
    asked = {
        "dataset": {"forgetting": [other | {"path": str(write_jsonl(tmp_path / "other.jsonl", reviews(8)))}]},
        "training": {"evaluation": {"forgetting": [other]}},
    }
    ended, report = check(make_job("new", **asked))
    assert ended == ExitCode.CONFIGURATION
    assert "the model's head is new, so it has nothing to forget" in report.message
    ended, report = check(make_job("known", **asked, model={"path": str(known)}))
    assert ended == ExitCode.DONE, report.message


def test_what_of_conversations_is_not_learned_is_said_with_the_rows(tmp_path):
    good, *others = chats(24)
    greeting, question = {"role": "assistant", "content": "Hi."}, {"role": "user", "content": "Bye."}
    changed = [[greeting, *good["messages"]], [*good["messages"], question], [question]]
    base, rows = build_llama(tmp_path / "model"), [*({"messages": each} for each in changed), *others]
    made = job(tmp_path / "job", base, rows, objective={"causalLM": {"chatTemplate": "Plain"}})
    everything = {"path": str(made.folder / "train.jsonl"), "uri": "pvc://data/train.jsonl"}
    code, report = check(made.changed({"dataset": {"split": None, "validation": everything}}))
    assert code == ExitCode.DONE, report.message
    said = [
        "train: 1 conversations have no message of the assistant, and are dropped (row 3)",
        "train: 1 conversations begin with the assistant (row 1): what it says before anybody asks is read",
    ]
    for each in said:
        assert any(note.startswith(each) for note in report.preflight.warnings), report.preflight.warnings


def test_truncated_weights_are_found(make_job, tmp_path, model_folder):
    broken = shutil.copytree(model_folder, tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    code, report = check(make_job(model={"path": str(broken)}))
    assert (code, "truncated or damaged" in report.message) == (ExitCode.NOT_FOUND, True), report.message


def test_a_model_around_the_output_is_found_before_training(make_job):
    job = make_job(training={"epochs": 1})
    assert job.run() == ExitCode.DONE
    inside = job.changed({"output": {"modelDir": str(job.model_dir / "v2"), "uri": "pvc://models/out/v2"}})
    code, report = check(inside)
    assert (code, "is inside pvc://models/out, which" in report.message) == (ExitCode.NOT_FOUND, True)


def test_the_model_of_another_job_is_found_before_training(make_job):
    job = make_job()
    job.model_dir.mkdir(parents=True)
    (job.model_dir / "notes.txt").write_text("mine")
    code, report = check(job)
    assert (code, "is not empty and is not the model" in report.message) == (ExitCode.NOT_FOUND, True)
    assert left(job) == ["model/notes.txt"]


def test_an_output_that_cannot_be_made_is_no_temporary_fault(make_job):
    job = make_job()
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / "out").write_text("a file where the folder should be")
    code, report = check(job)
    assert (code, "cannot be written to" in report.message) == (ExitCode.NOT_FOUND, True), report.message


def test_a_volume_that_is_too_small_for_one_checkpoint_fails_and_one_for_all_is_warned_of(make_job):
    code, report = check(make_job("small"), outputMounted=False, outputSize=1000)
    assert (code, "too little for one checkpoint" in report.message) == (ExitCode.STORAGE, True)
    code, report = check(make_job("some"), outputMounted=False, outputSize=500_000)
    assert code == ExitCode.DONE
    assert "free space, lower training.checkpoint.keep" in report.preflight.warnings[0]


def test_a_gpu_that_cannot_hold_the_weights_is_refused_and_one_that_may_not_suffice_warned_of(make_job):
    gpu = {"devices": {"gpus": 1}}
    code, report = check(make_job("small", **gpu), gpuMemory=100_000)
    assert (code, "cannot be trained on GPUs of 0.10 MiB" in report.message) == (
        ExitCode.OUT_OF_MEMORY,
        True,
    )
    need = check(make_job("large", **gpu))[1].preflight.memory
    code, report = check(make_job("some", **gpu), gpuMemory=need.total - 1)
    assert code == ExitCode.DONE
    assert "training will halve the micro-batch until it fits" in report.preflight.warnings[0]


def test_ranks_divide_what_is_trained_and_keep_buffers_whole(make_job):
    whole, part = (
        check(make_job(str(gpus), devices={"gpus": gpus}, training={"sharding": "Full"}))[1].preflight
        for gpus in (1, 4)
    )
    parameters = 4 * whole.parameters
    assert whole.memory.weights > parameters, "else this says little"
    assert part.memory.weights == whole.memory.weights - parameters + parameters // 4


def test_labels_of_nodes_tell_how_large_gpus_are_and_how_fast(make_job):
    gpu = {"devices": {"gpus": 1}, "training": {"precision": "Auto"}}
    known = {"gpuNodes": 2, "gpuProduct": "NVIDIA-A100-SXM4-80GB"}
    code, report = check(make_job("small", **gpu), gpuMemory=100_000, **known)
    assert code == ExitCode.OUT_OF_MEMORY
    assert "by the labels of the 2 nodes that the job may run on" in report.message
    code, report = check(make_job("mixed", **gpu), gpuMemory=2**30, leastGpuMemory=100_000, **known)
    assert code == ExitCode.DONE
    assert "the GPUs of some nodes have 0.10 MiB, too few for" in report.preflight.warnings[0]
    assert report.preflight.time.basis.startswith(
        "93.6 TFLOP/s on each GPU, assumed: 30% of the peak of NVIDIA-A100"
    )
    slow = check(make_job("slow", **gpu))[1].preflight.time
    assert "30 TFLOP/s on each GPU, assumed: the kind of GPU is not known" in slow.basis
    assert slow.step_seconds == pytest.approx(report.preflight.time.step_seconds * 93.6 / 30, rel=0.01)


def test_gpus_without_bfloat16_are_refused_or_warned_of_and_trained_on_in_float32(make_job):
    def checked(name, precision, **known):
        return check(make_job(name, devices={"gpus": 1}, training={"precision": precision}), **known)

    old = {"gpuCapability": 7, "gpuProduct": "Tesla-T4"}
    code, report = checked("none", "BFloat16", **old)
    assert code == ExitCode.CONFIGURATION
    assert "training.precision: by the labels" in report.message
    assert "no GPU (Tesla-T4) supports bfloat16; set Auto or Float32" in report.message
    _, some = checked("some", "BFloat16", gpuCapability=9, leastGpuCapability=7)
    assert some.preflight.warnings[0].startswith("the GPUs of some nodes do not support bfloat16")
    half, single = (checked(name, name, gpuCapability=9)[1].preflight for name in ("BFloat16", "Float32"))
    assert not half.warnings
    assert half.memory.activations < single.memory.activations
    for known, same in ((old, single), ({"gpuCapability": 8}, half), ({}, half)):
        assert checked("Auto", "Auto", **known)[1].preflight.memory == same.memory


def test_the_arithmetic_of_a_step(make_job):
    """Of a BERT, whose tables are not multiplied: 6 operations a weight and token, 4 where it is frozen."""
    gpu, rows = {"devices": {"gpus": 1}}, reviews(64)
    whole = check(make_job("whole", rows=rows, **gpu))[1].preflight
    steps = whole.total_steps / 2
    tables = 32 * (len([*SPECIAL, *WORDS]) + 64 + 2)
    work = 6 * (whole.parameters - tables) * whole.tokens / steps
    assert whole.time.step_seconds == pytest.approx(work / 30e12, rel=0.01)
    adapter = {"model": {"adapter": {"lora": {"rank": 1}}}}
    frozen = check(make_job("frozen", rows=rows, **gpu, **adapter))[1].preflight
    assert 0.6 < frozen.time.step_seconds / whole.time.step_seconds < 0.8


def test_a_report_in_any_language_fits_a_termination_message(make_job):
    names = [f"标签{'很长' * 30}{number}" for number in range(40)]
    rows = [row | {"label": names[number % 40]} for number, row in enumerate(reviews(200))]
    check(job := make_job(rows=rows, training={"batchSize": 8}))
    assert len((job.folder / "report.json").read_bytes()) <= 3500


FACTOR = 1.35
LANGUAGE_FACTOR = 1.6
MEBIBYTE = 2**20


@pytest.mark.parametrize("precision", ["Auto", "Float32"])
def test_the_estimate_is_the_measured_peak_of_a_run(make_job, tmp_path, precision):
    rows = [row | {"text": " ".join([row["text"]] * 25)} for row in reviews(80)]
    training = {"batchSize": 32, "microBatchSize": 32, "maxSteps": 1, "epochs": None, "precision": precision}
    job = make_job(
        rows=rows,
        model={"path": str(larger(tmp_path / "model"))},
        dataset={"preprocessing": {"maxLength": 256}},
        training=training,
    )
    need = check(job)[1].preflight.memory
    measured = peak_of(job)
    assert (need.micro_batch_size, need.longest) == (32, 256)
    assert measured / FACTOR < need.total < measured * FACTOR, (need, measured / MEBIBYTE)


LANGUAGE_MODELS = {
    "the next token": {"causalLM": {}},
    "both answers to a prompt": {"preference": {"loss": "DPO"}},
    "one answer, its baseline without gradients": {"preference": {"loss": "KTO"}},
}


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_the_estimate_of_a_language_model_is_the_measured_peak_of_a_run(tmp_path, name):
    training = {"batchSize": 16, "microBatchSize": 16, "maxSteps": 1, "epochs": None}
    made = job(
        tmp_path / "job",
        larger_llama(tmp_path / "model"),
        long_answers(48),
        objective=LANGUAGE_MODELS[name],
        dataset={"preprocessing": {"maxLength": 400, "packing": "Never"}},
        training=training,
    )
    code, report = check(made)
    assert code == ExitCode.DONE, report.message
    need, measured = report.preflight.memory, peak_of(made)
    assert need.activations > need.weights, "else this says little"
    assert measured / LANGUAGE_FACTOR < need.total < measured * LANGUAGE_FACTOR, (need, measured / MEBIBYTE)


def long_answers(count: int) -> list[dict[str, object]]:
    """Rows of causal language models, of pairs and of single answers in one."""
    answer = " ".join(GOOD * 6)
    return [
        {
            "text": f"the film {number} is {answer}",
            "prompt": f"the film {number} is ",
            "chosen": answer,
            "rejected": " ".join(BAD_WORDS * 6),
            "completion": answer,
            "label": number % 2 == 0,
        }
        for number in range(count)
    ]


def larger_llama(folder: Path) -> Path:
    """As `larger`, with a vocabulary whose scores of all positions would be most of the memory."""
    from transformers import LlamaConfig, LlamaForCausalLM

    build("llama", folder)
    sizes = {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 1024}
    LlamaForCausalLM(LlamaConfig(vocab_size=4096, **sizes)).save_pretrained(folder)
    return folder


def larger(folder: Path) -> Path:
    """A model whose activations are many times what a process needs besides."""
    import torch
    from transformers import BertConfig, BertModel

    build_model(folder)
    torch.manual_seed(7)
    sizes = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
    BertModel(BertConfig(vocab_size=40, max_position_embeddings=256, **sizes)).save_pretrained(folder)
    return folder


def peak_of(job: Job) -> int:
    """Bytes by which the resident memory of a process grows while it trains."""
    path, result = job.write(), job.folder / "peak"

    def body() -> int:
        from finetune_trainer.__main__ import main

        ctypes.CDLL(None).malloc_trim(
            0
        )  # else memory that earlier tests have freed is used again, and nothing grows
        before = resident()
        code = main([str(path)])
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
        result.write_text(str(grown))
        return code

    assert os.waitstatus_to_exitcode(os.waitpid(fork(body, job.folder / "log"), 0)[1]) == 0, job.log
    return int(result.read_text())


def resident() -> int:
    """Bytes of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
