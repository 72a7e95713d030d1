"""Versions of the libraries that compute, for manifests, run.json and the model card."""

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("finetune-operator", "torch", "transformers", "tokenizers", "peft", "safetensors", "numpy")


@cache
def versions() -> dict[str, str]:
    """Library to version, without libraries that are not installed."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
