"""`transformers.Trainer` on the rows of a task: is what the speed is compared with the same training? Called by
`comparisons`."""

from pathlib import Path

from bench.trainer_runs import Setting, read_rows


def train_peer(setting: Setting, seed: int, max_length: int) -> Path:
    """The folder of a classifier that was trained with the Trainer's defaults on nine tenths of the rows.

    Epochs, rate, batch size, weight decay and warmup are ours; batches are of random rows, in float32. A model that is
    there already is not trained again.
    """
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    out = setting.folder / f"peer-{seed}"
    if (out / "model" / "config.json").exists():
        return out / "model"
    set_seed(seed)
    rows, labels = read_rows(setting.folder / "train.jsonl"), setting.labels or []
    kept = torch.randperm(len(rows))[: len(rows) * 9 // 10].tolist()
    tokenizer = AutoTokenizer.from_pretrained(setting.model)
    encoded = [
        tokenizer(rows[number]["text"], truncation=True, max_length=max_length)
        | {"labels": labels.index(rows[number]["label"])}
        for number in kept
    ]
    arguments = TrainingArguments(
        output_dir=str(out / "runs"),
        num_train_epochs=setting.epochs,
        learning_rate=setting.rate,
        per_device_train_batch_size=32,
        weight_decay=0.01,
        warmup_steps=0.1,
        seed=seed,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    names = dict(enumerate(labels))
    model = AutoModelForSequenceClassification.from_pretrained(setting.model, id2label=names)
    Trainer(
        model=model,
        args=arguments,
        train_dataset=encoded,
        data_collator=DataCollatorWithPadding(tokenizer),
    ).train()
    tokenizer.save_pretrained(out / "model")
    model.save_pretrained(out / "model")
    return out / "model"
