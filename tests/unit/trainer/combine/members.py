"""What members are trained for, and what plain transformers or the loader in a folder makes of them."""

import importlib.util
import json
import shutil

from unit.trainer.plain import run_plain
from unit.trainer.tiny import reviews

TEST = reviews(40, start=500)
SPLIT = {"fraction": 0.25, "seed": 5}
WORDS = {
    "objective": {"tokenClassification": {}},
    "dataset": {"columns": {"text": "words", "label": "tags"}},
}
RATING = {"objective": {"regression": {"normalize": True}}, "dataset": {"columns": {"label": "rating"}}}
TOPICS = {"objective": {"classification": {"multiLabel": True}}, "dataset": {"columns": {"label": "topics"}}}
HEAD = {"model": {"head": {"hiddenSizes": [8], "batchNorm": True}}}


def logits_of(folders, rows=TEST, kind="AutoModelForSequenceClassification"):
    """(members, rows, outputs), as plain transformers computes them."""
    import torch
    import transformers

    found = []
    for folder in folders:
        model = getattr(transformers, kind).from_pretrained(folder).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        texts = [row["text"] for row in rows]
        inputs = tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt")
        with torch.no_grad():
            found.append(model(**inputs).logits)
    return torch.stack(found)


def accuracy(decided, rows=TEST, labels=("neg", "pos")):
    return sum(labels[i] == row["label"] for i, row in zip(decided.tolist(), rows, strict=True)) / len(rows)


LOADED = """
import json, sys
import torch
from {module} import load
model, tokenizer = load(".")
inputs = tokenizer(json.loads(sys.argv[1]), padding=True, truncation=True, max_length=32, return_tensors="pt")
with torch.no_grad():
    print(json.dumps(model(**inputs).logits.tolist()))
"""


def in_folder(folder, module="ensemble"):
    """What the loader in a folder answers for the test rows, with nothing of ours on Python's path."""
    import torch

    texts = json.dumps([row["text"] for row in TEST])
    return torch.tensor(json.loads(run_plain(LOADED.format(module=module), folder, texts)))


def recited(folder):
    """The same here, by the very file in the folder."""
    import torch

    found = importlib.util.spec_from_file_location("ensemble_of_a_folder", folder / "ensemble.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    model, tokenizer = module.load(str(folder))
    texts = [row["text"] for row in TEST]
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt")
    with torch.no_grad():
        return model(**inputs).logits


def noisy(folder, tmp_path, seed, scale, layer=""):
    """A member with noise on its weights, or on those of one layer."""
    import torch
    from safetensors.torch import load_file, save_file

    from finetune_trainer.files import sha256

    copy = tmp_path / f"noisy-{seed}-{scale}"
    shutil.copytree(folder, copy)
    random = torch.Generator().manual_seed(seed)
    weights = load_file(copy / "model.safetensors")
    moved = {
        name: tensor + scale * name.startswith(layer) * torch.randn(tensor.shape, generator=random)
        for name, tensor in weights.items()
    }
    save_file(moved, copy / "model.safetensors", metadata={"format": "pt"})
    sums = (copy / "SHA256SUMS").read_text().splitlines()
    own = f"{sha256(copy / 'model.safetensors')}  model.safetensors"
    (copy / "SHA256SUMS").write_text(
        "".join(f"{own if line.endswith(' model.safetensors') else line}\n" for line in sums)
    )
    return copy
