"""`spec.model`: the checkpoint that training starts from."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from finetune_api.base import ApiModel, Name, OneOf, Rule, Unique
from finetune_api.schema import NOT_STORED
from finetune_api.uris import ModelUri


class Dtype(StrEnum):
    """Number format of published weights."""

    AUTO = "Auto"
    FLOAT32 = "Float32"
    BFLOAT16 = "BFloat16"


class FrozenWeights(StrEnum):
    """Number format in which frozen weights are kept in memory."""

    AUTO = "Auto"
    FLOAT32 = "Float32"
    BFLOAT16 = "BFloat16"
    NF4 = "NF4"


LESS_THAN_FLOAT32 = (FrozenWeights.BFLOAT16, FrozenWeights.NF4)


class Initialize(StrEnum):
    """Where the initial weights come from."""

    PRETRAINED = "Pretrained"
    RANDOM = "Random"


class Pooling(StrEnum):
    """How token outputs are pooled into one vector per text."""

    FIRST = "First"
    LAST = "Last"
    MEAN = "Mean"
    MAX = "Max"


class CredentialsSpec(ApiModel):
    """Access to private or gated models and data on the Hugging Face Hub."""

    secret_name: Name
    """Name of a Secret in the job's namespace whose key `token` holds a Hugging Face access token. The kubelet mounts it as a file."""


class TokenizerSpec(ApiModel):
    """Replaces the model's tokenizer, or adds tokens to it."""

    rules = (
        Rule(
            "has(self.uri) || has(self.addTokens)",
            "give uri (another tokenizer) or addTokens (more tokens for the model's own), or both",
            lambda s: s.uri is not None or s.add_tokens is not None,
        ),
    )
    uri: ModelUri | None = None
    """Folder with the tokenizer's files, for example pvc://models/bert-tokenizer, or a repository on the Hugging Face Hub. Default: the model's own tokenizer."""
    add_tokens: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=64)]],
            Field(min_length=1, max_length=1000),
            Unique(),
        ]
        | None
    ) = None
    """Domain words to add to the vocabulary, for example [mmHg, tachycardia]. Each new embedding starts as the mean of the tokens that the word was split into before."""


class UnfreezeInterval(OneOf):
    """How often to unfreeze one more layer. Set exactly one of epochs and steps."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Every N epochs, that is, passes over the training data."""
    steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Every N optimizer steps."""


class FreezeSpec(ApiModel):
    """Which parts of the model are frozen, that is, keep their pretrained weights."""

    rules = (
        Rule(
            "!has(self.unfreezeEvery) || (has(self.layers) && self.layers > 0)",
            "unfreezeEvery unfreezes the layers that freeze.layers counts; set layers to 1 or more",
            lambda s: s.unfreeze_every is None or s.layers > 0,
        ),
    )
    embeddings: bool = False
    """Freeze the embeddings."""
    layers: Annotated[int, Field(ge=0, le=1000)] = 0
    """Number of encoder layers to freeze, counted from the input. For example 4."""
    unfreeze_every: UnfreezeInterval | None = None
    """Gradual unfreezing (Howard & Ruder 2018): after each interval, unfreeze one more layer, starting with the one nearest to the head. Frozen embeddings stay frozen."""


class HeadSpec(ApiModel):
    """A custom head: the layers between the encoder and the outputs. Replaces the architecture's own head."""

    hidden_sizes: (
        Annotated[list[Annotated[int, Field(ge=1, le=65_536)]], Field(min_length=1, max_length=8)] | None
    ) = None
    """Sizes of the hidden layers, each followed by GELU. For example [256]. Default: no hidden layers, a single linear layer."""
    batch_norm: bool = False
    """Batch normalisation (Ioffe & Szegedy 2015) after each hidden layer, synchronized over all devices. Requires hiddenSizes and a training.microBatchSize of 2 or more."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Dropout probability before each linear layer, for example 0.2. Default: model.dropout, or the value in the model's config.json."""
    pooling: Pooling = Pooling.MEAN
    """How token outputs are pooled into one vector per text: Mean, Max, First (the [CLS] token) or Last."""
    rules = (
        Rule(
            "!(has(self.batchNorm) && self.batchNorm) || has(self.hiddenSizes)",
            "batchNorm normalises hidden layers; set hiddenSizes, for example [256]",
            lambda s: not s.batch_norm or s.hidden_sizes is not None,
        ),
    )


class LoraSpec(ApiModel):
    """LoRA, low-rank adaptation (Hu et al. 2022): trains small matrices and keeps the model's weights frozen."""

    rank: Annotated[int, Field(ge=1, le=1024)] = 8
    """Rank of the LoRA matrices. A higher rank trains more parameters."""
    alpha: Annotated[float, Field(gt=0, le=4096)] = 16
    """LoRA scaling: the update is multiplied by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout probability on the input of the LoRA matrices, for example 0.05."""
    target_modules: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=256)]],
            Field(min_length=1, max_length=64),
            Unique(),
        ]
        | None
    ) = None
    """Names of the linear layers to adapt, for example [query, value]. Default: all linear layers of the encoder."""
    merge: bool = False
    """true merges the adapter into the base model and publishes a complete model. false publishes the adapter only; loading it requires the base model."""


class AdapterSpec(OneOf):
    """Parameter-efficient fine-tuning: trains a small adapter in a frozen model. Set exactly one member."""

    lora: LoraSpec | None = None
    """LoRA, low-rank adaptation. Write {} for the defaults."""


class ModelTechniques(ApiModel):
    """How a base model is changed before training; the same in a spec and in a RunConfig."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.adapter) || !has(self.freeze)",
            "model.adapter already freezes the whole model; remove model.freeze",
            lambda s: s.adapter is None or s.freeze is None,
            ".freeze",
        ),
        Rule(
            "!has(self.adapter) || !has(self.layerLearningRateDecay)",
            "model.adapter does not train the model's layers, so no learning rate decays over them; remove model.layerLearningRateDecay",
            lambda s: s.adapter is None or s.layer_learning_rate_decay is None,
            ".layerLearningRateDecay",
        ),
        Rule(
            "!has(self.weights) || self.weights != 'NF4' || has(self.adapter)",
            "model.weights: NF4 keeps the model in 4 bits, which cannot be trained as a whole; set model.adapter (QLoRA), or model.weights: Auto",
            lambda s: s.weights is not FrozenWeights.NF4 or s.adapter is not None,
            ".weights",
        ),
        Rule(
            "!has(self.weights) || self.weights != 'BFloat16' || has(self.adapter) || has(self.freeze)",
            "model.weights is about frozen weights, and this job trains all of them, in Float32; set model.adapter or model.freeze, or model.weights: Auto",
            lambda s: (
                s.weights is not FrozenWeights.BFLOAT16 or s.adapter is not None or s.freeze is not None
            ),
            ".weights",
        ),
        Rule(
            "!has(self.weights) || !(self.weights in ['BFloat16', 'NF4']) || self.initialize != 'Random'",
            "model.weights keeps pretrained weights in fewer bits, and with model.initialize: Random there are none; set model.weights: Auto",
            lambda s: s.weights not in LESS_THAN_FLOAT32 or s.initialize is not Initialize.RANDOM,
            ".weights",
        ),
    )
    initialize: Initialize = Initialize.PRETRAINED
    """Pretrained loads the weights in the folder. Random uses only its architecture and trains from scratch, as a baseline."""
    freeze: FreezeSpec | None = None
    """Parts of the model to freeze. Default: the whole model is trained."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Dropout probability of all dropout layers, for example 0.1. Default: the value in the model's config.json."""
    layer_learning_rate_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    """Layer-wise learning-rate decay, or discriminative fine-tuning (Howard & Ruder 2018): the learning rate of each layer is that of the layer above it multiplied by this factor, for example 0.9. The head has the full rate."""
    head: HeadSpec | None = None
    """Custom head between the encoder and the outputs. Default: the architecture's own head."""
    adapter: AdapterSpec | None = None
    """Train a small adapter (LoRA) instead of the whole model."""
    weights: Annotated[
        FrozenWeights,
        Field(exclude_if=lambda weights: weights is FrozenWeights.AUTO, json_schema_extra={NOT_STORED: True}),
    ] = FrozenWeights.AUTO
    """Number format in which weights that are not trained are kept in memory. Auto: that of the checkpoint. BFloat16: 2 bytes per weight. NF4: 4-bit quantization by bitsandbytes, as in QLoRA, of the linear layers under an adapter; embeddings and the last layer have 16 bits. Weights that are trained are always kept in Float32, as are norms and biases. With training.sharding: Full, Auto means Float32."""


class ModelSpec(ModelTechniques):
    """The checkpoint that training starts from."""

    uri: ModelUri
    """Folder with config.json, *.safetensors and tokenizer files, for example pvc://models/minilm, or a repository on the Hugging Face Hub, for example hf://distilbert/distilbert-base-uncased@main. Pickled weights (*.bin) are refused. A folder with a LoRA adapter is merged into the base model that it names."""
    credentials: CredentialsSpec | None = None
    """Access to a private or gated model, tokenizer or dataset on the Hugging Face Hub."""
    tokenizer: TokenizerSpec | None = None
    """Replaces the tokenizer in the model's folder, or adds tokens to it."""


def frozen_weights_fit_sharding(root: str = "") -> Rule:
    """Of a whole job: what a sharded model publishes has the weights that it was measured with."""
    return Rule(
        "!has(model.weights) || !(model.weights in ['BFloat16', 'NF4'])"
        " || !has(training.sharding) || training.sharding != 'Full'"
        " || (has(model.adapter) && has(model.adapter.lora)"
        " && !(has(model.adapter.lora.merge) && model.adapter.lora.merge))",
        f"{root}model.weights: BFloat16 or NF4 with {root}training.sharding: Full needs an adapter that is published"
        f" alone; set {root}model.adapter.lora.merge: false, or remove one of them",
        lambda s: (
            s.model is None
            or s.model.weights not in LESS_THAN_FLOAT32
            or s.training is None
            or s.training.sharding.value != "Full"
            or (
                s.model.adapter is not None
                and s.model.adapter.lora is not None
                and not s.model.adapter.lora.merge
            )
        ),
        ".model.weights",
        needs=("model", "training"),
    )
