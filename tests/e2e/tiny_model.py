"""A BERT of two thin layers with MiniLM's tokenizer: trains a step in milliseconds."""

import json
import shutil
from pathlib import Path


def save_tiny_model(source: Path, target: Path) -> None:
    """Write a randomly initialised small model that has the tokenizer of `source`."""
    from transformers import AutoConfig, AutoModel, set_seed

    set_seed(1)
    config = AutoConfig.from_pretrained(source)
    config.update(
        {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    )
    AutoModel.from_config(config).save_pretrained(target)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        if (source / name).exists():
            shutil.copy(source / name, target / name)
    assert json.loads((target / "config.json").read_text())["hidden_size"] == 64
