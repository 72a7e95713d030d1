"""The versions of what computes, for manifests, run.json and the card."""

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("finetune-operator", "torch", "transformers", "tokenizers", "peft", "safetensors", "numpy")


@cache
def versions() -> dict[str, str]:
    """Library to version; a library that is not installed is left out."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
