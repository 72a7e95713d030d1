"""`spec.model`: the checkpoint that training starts from."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.base import ApiModel, Name, OneOf, Rule, Unique
from finetune_api.uris import ModelUri


class Initialize(StrEnum):
    """Where the first weights come from."""

    PRETRAINED = "Pretrained"
    RANDOM = "Random"


class Pooling(StrEnum):
    """How the outputs of a text's tokens become one vector."""

    FIRST = "First"
    LAST = "Last"
    MEAN = "Mean"
    MAX = "Max"


class CredentialsSpec(ApiModel):
    """Access to a model or data that is not public."""

    secret_name: Name
    """A Secret of this namespace; its key `token` holds an access token of the Hugging Face Hub. The kubelet mounts it as a file."""


class TokenizerSpec(ApiModel):
    """Another tokenizer than the model's own, or more tokens for it."""

    rules = (
        Rule(
            "has(self.uri) || has(self.addTokens)",
            "give uri, another tokenizer, or addTokens, more tokens for the model's own",
            lambda s: s.uri is not None or s.add_tokens is not None,
        ),
    )
    uri: ModelUri | None = None
    """Folder with the tokenizer's files, for example pvc://models/bert-tokenizer, or a repository of the Hub. Default: the model's own."""
    add_tokens: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=64)]],
            Field(min_length=1, max_length=1000),
            Unique(),
        ]
        | None
    ) = None
    """Words of the domain that become tokens of their own, for example [mmHg, tachycardia]. Their embeddings begin as the mean of the tokens that they were split into."""


class UnfreezeInterval(OneOf):
    """How often: exactly one of the members."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """After every so many passes over the training data."""
    steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """After every so many optimizer steps."""


class FreezeSpec(ApiModel):
    """Which parts keep their pretrained weights."""

    rules = (
        Rule(
            "!has(self.unfreezeEvery) || self.layers > 0",
            "unfreezeEvery thaws the layers that freeze.layers counts; set layers to 1 or more",
            lambda s: s.unfreeze_every is None or s.layers > 0,
        ),
    )
    embeddings: bool = False
    """Keep the embeddings as they are."""
    layers: Annotated[int, Field(ge=0, le=1000)] = 0
    """Keep this many layers of the encoder, counted from the input, as they are. For example 4."""
    unfreeze_every: UnfreezeInterval | None = None
    """Gradual unfreezing (Howard & Ruder 2018): train one more of the frozen layers after every interval, the one nearest to the head first. Frozen embeddings stay frozen."""


class HeadSpec(ApiModel):
    """The layers between the encoder and the outputs, in place of the architecture's own head."""

    hidden_sizes: (
        Annotated[list[Annotated[int, Field(ge=1, le=65_536)]], Field(min_length=1, max_length=8)] | None
    ) = None
    """Widths of the hidden layers, each with a GELU, for example [256]. Default: none, one linear layer."""
    batch_norm: bool = False
    """Normalise every hidden layer over the micro-batch (Ioffe & Szegedy 2015), over all devices together. Needs hiddenSizes and micro-batches of 2 or more."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Dropout probability before every linear layer, for example 0.2. Default: model.dropout, or what the model's config.json says."""
    pooling: Pooling = Pooling.MEAN
    """How the outputs of a text's tokens become one vector: Mean, Max, First (the [CLS] token) or Last."""
    rules = (
        Rule(
            "!self.batchNorm || has(self.hiddenSizes)",
            "batchNorm normalises hidden layers; set hiddenSizes, for example [256]",
            lambda s: not s.batch_norm or s.hidden_sizes is not None,
        ),
    )


class LoraSpec(ApiModel):
    """Low-rank adaptation (Hu et al. 2022): the weights stay frozen, small matrices beside them are trained."""

    rank: Annotated[int, Field(ge=1, le=1024)] = 8
    """Rank of the matrices."""
    alpha: Annotated[float, Field(gt=0, le=4096)] = 16
    """Scale: the update counts alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout probability before the matrices, for example 0.05."""
    target_modules: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=256)]],
            Field(min_length=1, max_length=64),
            Unique(),
        ]
        | None
    ) = None
    """Names of the linear layers that are adapted, for example [query, value]. Default: all linear layers of the encoder."""
    merge: bool = False
    """true adds the update to the weights and writes a whole model; false writes the adapter alone, which needs the base model beside it."""


class AdapterSpec(OneOf):
    """Small trained parts in a frozen model: exactly one of the members."""

    lora: LoraSpec | None = None
    """Low-rank adaptation. Written as {} for the defaults."""


class ModelSpec(ApiModel):
    """The checkpoint that training starts from."""

    rules = (
        Rule(
            "!has(self.adapter) || !has(self.freeze)",
            "an adapter freezes the whole model by itself; remove model.freeze",
            lambda s: s.adapter is None or s.freeze is None,
            ".freeze",
        ),
        Rule(
            "!has(self.adapter) || !has(self.layerLearningRateDecay)",
            "an adapter leaves the model's layers as they are; remove model.layerLearningRateDecay",
            lambda s: s.adapter is None or s.layer_learning_rate_decay is None,
            ".layerLearningRateDecay",
        ),
    )
    uri: ModelUri
    """Folder with config.json, *.safetensors and the tokenizer, for example pvc://models/minilm, or a repository of the Hugging Face Hub, for example hf://distilbert/distilbert-base-uncased@main. Pickled weights are refused."""
    credentials: CredentialsSpec | None = None
    """Access to a model, tokenizer or data of the Hub that is not public."""
    tokenizer: TokenizerSpec | None = None
    """Another tokenizer than the one in the model's folder, or more tokens for it."""
    initialize: Initialize = Initialize.PRETRAINED
    """Pretrained takes the weights of the folder; Random takes its architecture only, as a control run."""
    freeze: FreezeSpec | None = None
    """Parts of the model that are not trained."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Dropout probability of all dropout layers, for example 0.1. Default: as the model's config.json says."""
    layer_learning_rate_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    """Discriminative rates (Howard & Ruder 2018): every layer learns at this multiple of the rate of the layer above it, for example 0.9; the head learns at the full rate."""
    head: HeadSpec | None = None
    """Layers of one's own between the encoder and the outputs. Default: the architecture's own head."""
    adapter: AdapterSpec | None = None
    """Train small added parts instead of the whole model."""
