"""`spec.model`: the checkpoint that training starts from."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.base import ApiModel
from finetune_api.uris import ClaimUri


class Initialize(StrEnum):
    """Where the first weights come from."""

    PRETRAINED = "Pretrained"
    RANDOM = "Random"


class TokenizerSpec(ApiModel):
    """Another tokenizer than the model's own."""

    uri: ClaimUri
    """Folder with the tokenizer's files, for example pvc://models/bert-tokenizer."""


class FreezeSpec(ApiModel):
    """Which parts keep their pretrained weights."""

    embeddings: bool = False
    """Keep the embeddings as they are."""
    layers: Annotated[int, Field(ge=0, le=1000)] = 0
    """Keep this many layers of the encoder, counted from the input, as they are. For example 4."""


class ModelSpec(ApiModel):
    """The checkpoint that training starts from."""

    uri: ClaimUri
    """Folder with config.json, *.safetensors and the tokenizer, for example pvc://models/minilm. Pickled weights are refused."""
    tokenizer: TokenizerSpec | None = None
    """Another tokenizer than the one in the model's folder."""
    initialize: Initialize = Initialize.PRETRAINED
    """Pretrained takes the weights of the folder; Random takes its architecture only, as a control run."""
    freeze: FreezeSpec | None = None
    """Parts of the model that are not trained."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Dropout probability of all dropout layers, for example 0.1. Default: as the model's config.json says."""
