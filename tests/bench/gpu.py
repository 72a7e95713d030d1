"""Every CUDA path of the trainer, checked on this machine's GPU, and its speed beside transformers.Trainer and TRL.

    python tests/bench/gpu.py [FOLDER] [--parts checks speed]

Models have random weights of a real shape, texts are random words, and nothing is downloaded. Each measurement is a
separate process. What a machine lacks is skipped, and said; without a GPU a tiny model takes the same ways on the CPU.
The exit code is 1 if a check fails.
"""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / folder) for folder in ("api", "trainer-image", "demo", "tests")]

from bench.tables import markdown  # noqa: E402
from bench.trainer_runs import run_trainer, write_rows  # noqa: E402

Json = dict[str, Any]
SGD = {"name": "SGD", "learningRate": 0.1, "momentum": 0, "weightDecay": 0}
LARGE = 70 * 2**30
"""Bytes of a GPU on which the model of the speed table has all its layers."""
ON_GPU = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32_000,
    "longest": 2048,
}
"""Of Llama 3.2 1B, but for its vocabulary."""
ON_CPU = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 4_000,
    "longest": 128,
}
DOCUMENTS, BATCH, WARMUP = 512, 16, 3


class SkippedError(Exception):
    """What this machine lacks."""


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


STEPS = 8 if has_gpu() else 60


def make_model(folder: Path, layers: int) -> Path:
    """A Llama with random weights, and a tokenizer of which each word is a token."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    if (folder / "config.json").exists():
        return folder
    shape = dict(ON_GPU if has_gpu() else ON_CPU)
    longest = shape.pop("longest")
    words = ["<pad>", "</s>", "<unk>", *(f"w{number}" for number in range(shape["vocab_size"] - 3))]
    tokenizer = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    torch.manual_seed(0)
    special = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
    config = LlamaConfig(
        **shape,
        **special,
        num_hidden_layers=layers,
        max_position_embeddings=2 * longest,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def documents(count: int, longest: int, vocabulary: int) -> Iterator[Json]:
    """Of random words; lengths are those of a geometric distribution, an eighth of the longest one on average."""
    rng = random.Random(1)
    for _ in range(count):
        length = min(longest - 1, 4 + int(rng.expovariate(8 / longest)))
        yield {"text": " ".join(f"w{rng.randrange(vocabulary - 3)}" for _ in range(length))}


def job(folder: Path, out: Path, gpu: bool, **training: Any) -> Json:
    """A RunConfig of a language model on the documents of a folder."""
    longest = (ON_GPU if has_gpu() else ON_CPU)["longest"]
    return {
        "job": {"name": "bench"},
        "model": {"path": str(folder / "model")},
        "dataset": {
            "train": {"path": str(folder / "train.jsonl")},
            "validation": {"path": str(folder / "validation.jsonl")},
            "preprocessing": {"maxLength": longest},
        },
        "objective": {"causalLM": {}},
        "training": {
            "maxSteps": WARMUP + STEPS,
            "batchSize": BATCH,
            "microBatchSize": BATCH,
            "evaluation": {"every": {"steps": WARMUP + STEPS}},
        }
        | training,
        "devices": {"gpus": int(gpu)},
        "output": {f"{name}Dir": str(out / name) for name in ("model", "staging", "checkpoint")},
        "terminationLog": str(out / "report.json"),
    }


def assembled(config: Json, out: Path) -> tuple[Any, Any]:
    """The run of a configuration with its state, as the trainer puts it together."""
    from finetune_trainer.config import read_config
    from finetune_trainer.distributed import Ranks
    from finetune_trainer.process.launch import Process
    from finetune_trainer.process.stop import Stop
    from finetune_trainer.process.threads import configure
    from finetune_trainer.reporting.recorder import Recorder
    from finetune_trainer.training.assembly import assemble, start_torch
    from finetune_trainer.training.inputs import read_inputs
    from finetune_trainer.training.state import TrainState

    out.mkdir(parents=True, exist_ok=True)
    (out / "run.json").write_text(json.dumps(config))
    inputs = read_inputs(read_config(out / "run.json"), Recorder(), Stop(), Process(0, 1))
    run = assemble(inputs, start_torch(inputs, configure()), Ranks()).run
    return run, TrainState(micro_batch_size=config["training"]["microBatchSize"])


@contextmanager
def stepping(config: Json, out: Path) -> Iterator[tuple[Any, Any]]:
    """`assembled`, whose thread ends."""
    run, state = assembled(config, out)
    try:
        yield run, state
    finally:
        run.feed.close()


def weights(run: Any) -> Any:
    import torch

    return torch.cat([p.detach().float().cpu().flatten() for p in run.task.model.parameters()])


def update(config: Json, out: Path, steps: int = 2) -> tuple[Any, int]:
    """What some steps add to the weights, and the size of micro-batches at their end."""
    from finetune_trainer.training.loop import train_step

    with stepping(config, out) as (run, state):
        before = weights(run)
        for _ in range(steps):
            if train_step(run, state) is None:
                raise SystemExit("a step was not finite")
        return weights(run) - before, state.micro_batch_size


def apart(one: Any, other: Any) -> float:
    """The norm of the difference of two updates, relative to that of the first."""
    return float((one - other).norm() / one.norm())


def against_the_cpu(folder: Path, out: Path) -> tuple[float, float]:
    """Two steps in float32 on the GPU and on the CPU."""
    if not has_gpu():
        raise SkippedError("this machine has no GPU")
    both = [
        update(job(folder, out / str(gpu), gpu, precision="Float32", optimizer=SGD), out / str(gpu))[0]
        for gpu in (True, False)
    ]
    return apart(*both), 1e-3


def bfloat16(folder: Path, out: Path) -> tuple[float, float]:
    """Two steps in bfloat16 against float32."""
    from finetune_trainer.process.devices import _computes_bfloat16

    if not _computes_bfloat16(has_gpu()):
        raise SkippedError(f"this {'GPU' if has_gpu() else 'CPU'} does not compute in bfloat16")
    both = [
        update(job(folder, out / kind, has_gpu(), precision=kind, optimizer=SGD), out / kind)[0]
        for kind in ("Float32", "BFloat16")
    ]
    return apart(*both), 0.05


def packing_by_mask(folder: Path, out: Path) -> tuple[float, float]:
    """Two steps in float32 on packed texts against padded ones."""
    return _packed(folder, out, "Float32"), 1e-3


def packing_by_varlen(folder: Path, out: Path) -> tuple[float, float]:
    """Two steps in bfloat16 on texts that torch's kernel keeps apart against padded ones."""
    if not has_gpu():
        raise SkippedError("torch has varlen attention for GPUs only")
    return _packed(folder, out, "BFloat16"), 0.05


def _packed(folder: Path, out: Path, precision: str) -> float:
    both = []
    for packing in ("Never", "Always"):
        config = job(folder, out / packing, has_gpu(), precision=precision, optimizer=SGD)
        config["dataset"]["preprocessing"]["packing"] = packing
        both.append(update(config, out / packing)[0])
    return apart(*both)


def halving(folder: Path, out: Path) -> tuple[float, float]:
    """A step for which the GPU is made too small, against one that fits."""
    import torch

    if not has_gpu():
        raise SkippedError(
            "this machine has no GPU; tests/unit/trainer/training/test_loop.py raises the errors"
        )
    config = job(folder, out / "whole", True, precision="Float32", optimizer=SGD)
    config["dataset"]["preprocessing"]["packing"] = "Never"
    whole, _ = update(config, out / "whole", steps=1)
    most, total = torch.cuda.max_memory_allocated(), torch.cuda.mem_get_info()[1]
    torch.cuda.empty_cache()
    kept = 2 * 4 * len(whole)  # weights and gradients in float32
    torch.cuda.set_per_process_memory_fraction((kept + 0.6 * (most - kept)) / total)
    config["output"] = {
        f"{name}Dir": str(out / "halved" / name) for name in ("model", "staging", "checkpoint")
    }
    halved, size = update(config, out / "halved", steps=1)
    if size >= BATCH:
        raise SystemExit(
            f"micro-batches were not halved: {most - kept} bytes of activations fit into 0.6 times that"
        )
    return apart(whole, halved), 1e-3


def nf4(folder: Path, out: Path) -> tuple[float, float]:
    """The loss of the first step with 4-bit weights under an adapter, against the one without."""
    from finetune_trainer.training.loop import train_step

    losses = []
    for name, changes in {"whole": {}, "nf4": {"weights": "NF4"}}.items():
        config = job(folder, out / name, has_gpu())
        config["model"] |= {"adapter": {"lora": {"rank": 8}}} | changes
        with stepping(config, out / name) as (run, state):
            losses.append(train_step(run, state).loss)
    return abs(losses[1] / losses[0] - 1), 0.05


def resume(folder: Path, out: Path) -> tuple[float, float]:
    """A run that is stopped and goes on, against one that is not: 0 if the bytes of their weights are equal."""
    digests = []
    for name in ("undisturbed", "stopped"):
        config = job(folder, out / name, has_gpu(), maxSteps=6, deterministic=True)
        config["training"]["evaluation"] = {"every": {"steps": 6}}
        if name == "stopped":
            measured("stop_at_step_3", json.dumps(config), str(out / name), code=75)
        run_trainer(config, out / name)
        digests.append(hashlib.sha256((out / name / "model" / "model.safetensors").read_bytes()).hexdigest())
    resumed = "resuming from the checkpoint of step 3" in (out / "stopped" / "log").read_text()
    return float(digests[0] != digests[1] or not resumed), 0.0


def stop_at_step_3(config: str, out: str) -> None:
    """Ends with the trainer's code for a stop."""
    from finetune_trainer.__main__ import main as trainer
    from finetune_trainer.training import loop

    step = loop.train_step

    def taken(run: Any, state: Any) -> Any:
        done = step(run, state)
        run.stop.requested = state.step == 3
        return done

    loop.train_step = taken
    Path(out).mkdir(parents=True, exist_ok=True)
    run_json = Path(out) / "stopped.json"
    run_json.write_text(config)
    raise SystemExit(trainer([str(run_json)]))


CHECKS = {
    "float32, GPU against CPU": against_the_cpu,
    "bfloat16 against float32": bfloat16,
    "packed by a mask against padded": packing_by_mask,
    "packed by varlen attention against padded": packing_by_varlen,
    "out of memory, halved against whole": halving,
    "NF4 against whole weights, first loss": nf4,
    "stopped and resumed against undisturbed": resume,
}


def check(name: str, folder: str) -> Json:
    """What a check found."""
    function = next(function for function in CHECKS.values() if function.__name__ == name)
    try:
        found, bound = function(Path(folder), Path(folder) / name)
    except SkippedError as reason:
        return {"skipped": str(reason)}
    return {"found": found, "bound": bound}


def checks(folder: Path) -> int:
    """Print a line for each; how many failed."""
    failed = 0
    lines = []
    for name, function in CHECKS.items():
        try:
            found = measured("check", function.__name__, str(folder))
        except SystemExit as error:
            found = {"error": str(error).strip().splitlines()[-1][:150]}
        good = "skipped" in found or found.get("found", 1) <= found.get("bound", -1)
        failed += not good
        said = (
            found.get("skipped") or found.get("error") or f"{found['found']:.1e} (bound {found['bound']:g})"
        )
        result = "skipped" if "skipped" in found else "holds" if good else "FAILS"
        lines.append({"check": name, "result": result, "difference, or why not": said})
        print(f"{name}: {result}: {said}", flush=True)
    print("\n" + markdown(lines), flush=True)
    return failed


class Window:
    """Measures the steps after the warm-up."""

    def __init__(self) -> None:
        self.steps = self.tokens = 0
        self._began = self._clock()

    def step(self, tokens: int) -> None:
        """Call when a step is done."""
        self.steps += 1
        if self.steps == WARMUP:
            self._began, self.tokens = self._clock(), 0
        elif self.steps <= WARMUP + STEPS:
            self.tokens += tokens
            self._ended = self._clock()

    @staticmethod
    def _clock() -> float:
        """Of a GPU by the wall; on a CPU, which others use too, seconds of this process."""
        if not has_gpu():
            return time.process_time()
        import torch

        torch.cuda.synchronize()
        return time.perf_counter()

    def result(self, **more: Any) -> Json:
        """What was measured."""
        from finetune_trainer.process.memory import peak

        return {"tokens": self.tokens, "seconds": self._ended - self._began, "bytes": peak()} | more


def ours(folder: str, feed: str = "ahead") -> Json:
    """The trainer's steps, with batches that are built ahead or when they are needed."""
    from finetune_trainer.training.loop import train_step

    out = Path(folder) / f"ours-{feed}"
    window, waited, seconds = Window(), 0.0, 0.0
    with stepping(job(Path(folder), out, has_gpu()), out) as (run, state):
        for number in range(WARMUP + STEPS):
            if feed == "needed":
                run.feed.close()
            done = train_step(run, state)
            window.step(done.tokens)
            if number >= WARMUP:
                waited, seconds = waited + done.waited, seconds + done.seconds
        apart = "varlen" if run.train.varlen else "mask" if run.train.packed_to else "padding"
        return window.result(data_wait=waited / seconds, apart=apart, precision=run.task.compute.precision)


def _peer_arguments(folder: Path) -> Json:
    from finetune_trainer.process.devices import _computes_bfloat16

    return {
        "output_dir": str(folder / "peer"),
        "max_steps": WARMUP + STEPS,
        "per_device_train_batch_size": BATCH,
        "bf16": _computes_bfloat16(has_gpu()),
        "use_cpu": not has_gpu(),
        "gradient_checkpointing": False,
        "dataloader_num_workers": 2 if has_gpu() else 0,
        "dataloader_pin_memory": has_gpu(),
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _counted(base: Any, window: Window) -> Any:
    class Counted(base):
        def training_step(self, model: Any, inputs: Any, *rest: Any, **others: Any) -> Any:
            tokens = int((inputs["labels"] != -100).sum())
            loss = super().training_step(model, inputs, *rest, **others)
            self.counted = tokens
            return loss

    return Counted


def _callback(window: Window) -> Any:
    from transformers import TrainerCallback

    class Steps(TrainerCallback):
        trainer: Any = None

        def on_step_end(self, *_: Any, **__: Any) -> None:
            window.step(self.trainer.counted)

    return Steps()


def _trained(trainer: Any, callback: Any, window: Window) -> Json:
    callback.trainer = trainer
    trainer.train()
    return window.result()


def transformers_trainer(folder: str) -> Json:
    """By length, fused AdamW, bfloat16 where there is, two processes that load."""
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForLanguageModeling,
        Trainer,
        TrainingArguments,
    )

    model = Path(folder) / "model"
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = [json.loads(line)["text"] for line in (Path(folder) / "train.jsonl").read_text().splitlines()]
    rows = [{"input_ids": [*ids, tokenizer.eos_token_id]} for ids in tokenizer(texts)["input_ids"]]
    window = Window()
    callback = _callback(window)
    trainer = _counted(Trainer, window)(
        model=AutoModelForCausalLM.from_pretrained(model, dtype="float32"),
        args=TrainingArguments(**_peer_arguments(Path(folder)), train_sampling_strategy="group_by_length"),
        train_dataset=rows,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        callbacks=[callback],
    )
    return _trained(trainer, callback, window)


def trl(folder: str) -> Json:
    """TRL's SFTTrainer, with packing on a GPU, by best fit."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    model, longest = Path(folder) / "model", (ON_GPU if has_gpu() else ON_CPU)["longest"]
    rows = [json.loads(line) for line in (Path(folder) / "train.jsonl").read_text().splitlines()]
    arguments = _peer_arguments(Path(folder)) | {"max_length": longest}
    if has_gpu():  # as many sequences as hold about a batch of documents
        arguments |= {"packing": True, "per_device_train_batch_size": BATCH // 8}
    else:
        arguments |= {"train_sampling_strategy": "group_by_length"}
    window = Window()
    callback = _callback(window)
    trainer = _counted(SFTTrainer, window)(
        model=AutoModelForCausalLM.from_pretrained(model, dtype="float32"),
        args=SFTConfig(**arguments),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(model),
        callbacks=[callback],
    )
    return _trained(trainer, callback, window)


def matrix_rate() -> Json:
    """FLOP/s of a large product in bfloat16, or float32 where that is what is computed in; the best of 20."""
    import torch

    from finetune_trainer.process.devices import _computes_bfloat16

    device, size = ("cuda", 8192) if has_gpu() else ("cpu", 1024)
    dtype = torch.bfloat16 if _computes_bfloat16(has_gpu()) else torch.float32
    one, other = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    best = float("inf")
    for _ in range(20):
        began = Window._clock()
        one @ other
        best = min(best, Window._clock() - began)
    return {"rate": 2 * size**3 / best, "of": torch.cuda.get_device_name() if has_gpu() else "CPU"}


def flops(folder: Path) -> float:
    """Of a token in training: six a weight, and attention within documents."""
    from transformers import AutoConfig

    shape = AutoConfig.from_pretrained(folder / "model")
    lengths = [len(json.loads(line)["text"].split()) + 1 for line in (folder / "train.jsonl").open()]
    per_head = shape.hidden_size // shape.num_attention_heads
    keys = 2 * shape.num_key_value_heads * per_head
    layer = shape.hidden_size * (2 * shape.hidden_size + keys + 3 * shape.intermediate_size)
    weights = shape.num_hidden_layers * layer + shape.vocab_size * shape.hidden_size
    attention = 6 * shape.num_hidden_layers * shape.hidden_size * sum(n * n for n in lengths) / sum(lengths)
    return 6 * weights + attention


def speed(folder: Path) -> None:
    """A line for each trainer, and what steps wait for data."""
    rate = measured("matrix_rate")
    print(f"{rate['of']}: {rate['rate'] / 1e12:.2f} TFLOP/s in a product of large matrices\n", flush=True)
    each, lines = flops(folder), []
    found = {"ours": measured("ours", str(folder))}
    found |= {name: measured(name, str(folder)) for name in ("transformers_trainer", "trl")}
    for name, one in found.items():
        per_second = one["tokens"] / one["seconds"]
        lines.append(
            {
                "trainer": name.replace("_", " "),
                "text tokens/s": f"{per_second:,.0f}",
                "peak memory": f"{one['bytes'] / 2**30:.2f} GiB",
                "model FLOPs utilisation": f"{100 * per_second * each / rate['rate']:.0f} %",
            }
        )
    print(markdown(lines), flush=True)
    needed = measured("ours", str(folder), "needed")
    one = found["ours"]
    print(f"ours in {one['precision']}; texts of a step are kept apart by {one['apart']}")
    print(
        f"steps wait for data: {100 * one['data_wait']:.3f} % of their time with batches built ahead,"
        f" {100 * needed['data_wait']:.3f} % with batches built when they are needed"
    )


def measured(part: str, *arguments: str, code: int = 0) -> Json:
    """What a process of this file prints as its last line, if it ends with the code."""
    command = [sys.executable, __file__, "--only", part, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    if done.returncode != code:
        raise SystemExit(done.stderr[-3000:] or f"{part} ended with code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1]) if code == 0 else {}


def prepare(folder: Path, layers: int) -> Path:
    """A model and documents."""
    shape = ON_GPU if has_gpu() else ON_CPU
    make_model(folder / "model", layers)
    rows = list(documents(DOCUMENTS, shape["longest"], shape["vocab_size"]))
    write_rows(folder / "train.jsonl", rows)
    write_rows(folder / "validation.jsonl", rows[:BATCH])
    return folder


def main() -> int:
    """Print what was asked for; 1 if a check failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "out" / "bench-gpu")
    parser.add_argument("--parts", nargs="+", default=["checks", "speed"])
    parser.add_argument("--only", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        ways = [check, stop_at_step_3, ours, transformers_trainer, trl, matrix_rate]
        print(json.dumps({way.__name__: way for way in ways}[options.only[0]](*options.only[1:])))
        return 0
    import torch

    gpu = torch.cuda.get_device_name() if has_gpu() else "no GPU: a tiny model on the CPU"
    print(f"torch {torch.__version__}, {gpu}\n", flush=True)
    layers = 2 if not has_gpu() or torch.cuda.mem_get_info()[1] < LARGE else 16
    kind, failed = "gpu" if has_gpu() else "cpu", 0
    if "checks" in options.parts:
        failed = checks(prepare(options.folder.absolute() / f"{kind}-2", 2))
    if "speed" in options.parts:
        speed(prepare(options.folder.absolute() / f"{kind}-{layers}", layers))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
