"""A script that uses everything that the script image adds to the trainer image, without the internet."""

import json
import os
from pathlib import Path

import evaluate
from accelerate import Accelerator
from datasets import Features, Value, load_dataset
from sklearn.metrics import f1_score
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer


class F1(evaluate.Metric):
    """A metric that lies in the script: evaluate.load would download one."""

    def _info(self) -> evaluate.MetricInfo:
        features = Features({"predictions": Value("string"), "references": Value("string")})
        return evaluate.MetricInfo(description="F1", citation="", features=features)

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {"f1": f1_score(references, predictions, pos_label="pos")}


def main() -> None:
    """Train a small decoder on the texts with TRL; the metric is that of calling every row positive."""
    rows = load_dataset("json", data_files=os.environ["FINETUNE_TRAIN_FILE"], split="train")
    halves = rows.train_test_split(0.5, seed=1)
    found = F1().compute(predictions=["pos"] * len(halves["test"]), references=halves["test"]["label"])
    tokenizer = AutoTokenizer.from_pretrained(
        os.environ["FINETUNE_MODEL_DIR"], eos_token="[SEP]", pad_token="[PAD]"
    )
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    trainer = SFTTrainer(
        model=LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)),
        args=SFTConfig(
            output_dir=os.environ["FINETUNE_CHECKPOINT_DIR"],
            max_steps=2,
            logging_steps=1,
            save_strategy="no",
            max_length=32,
            use_cpu=True,
            report_to="none",
        ),
        train_dataset=halves["train"].select_columns(["text"]),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model(os.environ["FINETUNE_OUTPUT_DIR"])
    summary = {"f1": found["f1"], "rows": len(rows), "processes": Accelerator().num_processes}
    Path(os.environ["FINETUNE_OUTPUT_DIR"], "summary.json").write_text(json.dumps(summary))


if __name__ == "__main__":
    main()
