"""Test loss of a published folder in plain transformers or peft, text by text. Called by `architectures`.

The trainer's own test loss comes from padded batches in its process; equal losses mean equal outputs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.materials import Row

IGNORED = -100
AUTO_CLASSES = {
    "classification": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
    "tokenClassification": "AutoModelForTokenClassification",
    "causalLM": "AutoModelForCausalLM",
}


@dataclass(frozen=True)
class Reloaded:
    """Model and tokenizer as any user gets them."""

    model: Any
    tokenizer: Any
    max_length: int

    @classmethod
    def whole(cls, folder: Path, kind: str, max_length: int) -> "Reloaded":
        """A folder of format safetensors."""
        import transformers

        model = getattr(transformers, AUTO_CLASSES[kind]).from_pretrained(folder)
        return cls(model.eval(), transformers.AutoTokenizer.from_pretrained(folder), max_length)

    @classmethod
    def adapter(cls, folder: Path, base: Path, kind: str, max_length: int) -> "Reloaded":
        """A folder of format peft, as its card says."""
        import transformers
        from peft import PeftModel

        config = transformers.AutoConfig.from_pretrained(folder)
        model = getattr(transformers, AUTO_CLASSES[kind]).from_pretrained(base, config=config)
        adapted = PeftModel.from_pretrained(model, folder)
        return cls(adapted.eval(), transformers.AutoTokenizer.from_pretrained(folder), max_length)

    def loss(self, kind: str, rows: list[Row]) -> float:
        """Mean over texts, words or tokens, by the loss that transformers computes itself."""
        import torch

        example = EXAMPLES[kind]
        total, weight = 0.0, 0
        for row in rows:
            inputs, labels, counted = example(self, row)
            with torch.no_grad():
                total += self.model(**inputs, labels=labels).loss.item() * counted
            weight += counted
        return total / weight

    def encoded(self, text: str, **options: Any) -> Any:
        """Tokens of one text."""
        return self.tokenizer(
            text, truncation=True, max_length=self.max_length, return_tensors="pt", **options
        )

    def id_of(self, label: str) -> int:
        """The number of a label."""
        return int(self.model.config.label2id[label])


Example = tuple[dict[str, Any], Any, int]
"""Inputs, labels, and how much the loss counts."""


def _classified(made: Reloaded, row: Row) -> Example:
    import torch

    if made.model.config.problem_type == "multi_label_classification":
        names = made.model.config.id2label.values()
        labels = torch.tensor([[float(name in row["label"]) for name in names]])
    else:
        labels = torch.tensor([made.id_of(row["label"])])
    return dict(made.encoded(row["text"])), labels, 1


def _measured(made: Reloaded, row: Row) -> Example:
    import torch

    return dict(made.encoded(row["text"])), torch.tensor([row["label"]]), 1


def _tagged(made: Reloaded, row: Row) -> Example:
    """The label of a word stands at its first token."""
    import torch

    text = " ".join(row["text"])
    inputs = made.encoded(text, return_offsets_mapping=True)
    labels, seen = [], set()
    for start, end in inputs.pop("offset_mapping")[0].tolist():
        word = text.count(" ", 0, end - 1) if end > start else None
        labels.append(IGNORED if word is None or word in seen else made.id_of(row["label"][word]))
        seen.add(word)
    return dict(inputs), torch.tensor([labels]), sum(label != IGNORED for label in labels)


def _continued(made: Reloaded, row: Row) -> Example:
    """Every token but the first is predicted, the end of the text too."""
    import torch

    ids = [*made.tokenizer(row["text"]).input_ids, made.tokenizer.eos_token_id][: made.max_length]
    tensor = torch.tensor([ids])
    return {"input_ids": tensor}, tensor, len(ids) - 1


EXAMPLES: dict[str, Callable[[Reloaded, Row], Example]] = {
    "classification": _classified,
    "regression": _measured,
    "tokenClassification": _tagged,
    "causalLM": _continued,
}
