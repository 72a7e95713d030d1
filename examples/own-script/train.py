"""A plain Hugging Face Trainer script. It knows nothing of Kubernetes; its progress appears in the job's status."""

import json
import os
from pathlib import Path

import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

LABELS = ["neg", "pos"]


def main() -> None:
    """Train on FINETUNE_TRAIN_FILE from FINETUNE_MODEL_DIR and save to FINETUNE_OUTPUT_DIR."""
    model_dir, output_dir = os.environ["FINETUNE_MODEL_DIR"], os.environ["FINETUNE_OUTPUT_DIR"]
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModelForSequenceClassification.from_pretrained(model_dir, num_labels=len(LABELS))
    rows = [json.loads(line) for line in Path(os.environ["FINETUNE_TRAIN_FILE"]).read_text().splitlines()]
    examples = [
        tokenizer(row["text"], truncation=True, max_length=64) | {"labels": LABELS.index(row["label"])}
        for row in rows
    ]
    arguments = TrainingArguments(
        output_dir=os.environ["FINETUNE_CHECKPOINT_DIR"],
        per_device_train_batch_size=8,
        num_train_epochs=float(os.environ.get("EPOCHS", "1")),
        logging_steps=10,
        save_strategy="no",
        use_cpu=not torch.cuda.is_available(),
    )
    trainer = Trainer(
        model=model, args=arguments, train_dataset=examples, data_collator=DataCollatorWithPadding(tokenizer)
    )
    trainer.train()
    trainer.save_model(output_dir)
    tokenizer.save_pretrained(output_dir)


if __name__ == "__main__":
    main()
