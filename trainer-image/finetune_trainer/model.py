"""The model and its tokenizer from a folder: what is accepted, how the head is made, what is frozen.

Called by `run`.

Only safetensors weights and models that transformers itself knows are loaded: nothing in the folder is executed.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from finetune_api.model import Initialize
from finetune_api.run import FaultPlace, ModelInput
from finetune_api.status import ResolvedModel
from finetune_trainer.adapters import adapt
from finetune_trainer.errors import ConfigurationError, NotFoundError, input_errors
from finetune_trainer.files import sha256
from finetune_trainer.freezing import freeze
from finetune_trainer.heads import add_head
from finetune_trainer.objectives import Objective
from finetune_trainer.vocabulary import Pieces, extend_embeddings

if TYPE_CHECKING:
    import torch

PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "*.model")
LOAD_ERRORS = (OSError, ValueError, KeyError, RuntimeError, SafetensorError)
"""What transformers raises for files that it cannot use."""
_DROPOUT_FIELDS = """
hidden_dropout_prob attention_probs_dropout_prob classifier_dropout classifier_dropout_prob dropout dropout_prob
attention_dropout activation_dropout hidden_dropout resid_pdrop embd_pdrop attn_pdrop summary_first_dropout
seq_classif_dropout embedding_dropout mlp_dropout
"""
DROPOUTS = tuple(_DROPOUT_FIELDS.split())


@dataclass(frozen=True)
class ModelFolder:
    """A folder that passed the checks which need no torch."""

    path: Path
    tokenizer: Path
    name: str
    resolved: ResolvedModel
    tokenizer_digest: str

    def tokenizer_resolved(self, spec: ModelInput) -> ResolvedModel | None:
        """The other tokenizer as it was read; None for the model's own."""
        if self.tokenizer == self.path:
            return None
        return ResolvedModel(
            uri=spec.tokenizer_uri, revision=spec.tokenizer_revision, digest=self.tokenizer_digest
        )


def check_folder(spec: ModelInput) -> ModelFolder:
    """Look at the files; raises NotFoundError with what is missing or why the folder is refused."""
    folder, name = Path(spec.path), spec.uri or spec.path
    tokenizer = Path(spec.tokenizer_path or spec.path)
    if not folder.is_dir():
        raise NotFoundError(f"model: there is no folder {name}", FaultPlace(field="model.uri", file=name))
    _check_config(folder, name)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights and spec.initialize is Initialize.PRETRAINED:
        raise NotFoundError(_no_weights(folder, name), FaultPlace(field="model.uri", file=name))
    tokenizer_files = sorted(path for pattern in TOKENIZER_FILES for path in tokenizer.glob(pattern))
    if not tokenizer_files:
        raise NotFoundError(
            f"model: {tokenizer if spec.tokenizer_path else name} has no tokenizer (tokenizer.json); add its files or"
            " set model.tokenizer.uri",
            FaultPlace(field="model.tokenizer.uri", file=name),
        )
    if (tokenizer / "tokenizer.json").exists():
        _json_object(
            tokenizer / "tokenizer.json", f"{tokenizer if spec.tokenizer_path else name}/tokenizer.json"
        )
    with input_errors(name, "model"):
        resolved = ResolvedModel(
            uri=spec.uri, revision=spec.revision, digest=_digest([folder / "config.json", *weights])
        )
        return ModelFolder(folder, tokenizer, name, resolved, _digest(tokenizer_files))


def _check_config(folder: Path, name: str) -> None:
    if "auto_map" in _json_object(folder / "config.json", f"{name}/config.json"):
        raise NotFoundError(
            f"model: {name}/config.json has auto_map, code of its own to run (trust_remote_code), which is always"
            " refused; use a model that transformers knows by itself",
            FaultPlace(field="model.uri", file=name),
        )


def _json_object(path: Path, name: str) -> dict[str, Any]:
    place = FaultPlace(field="model.uri", file=name)
    with input_errors(name, "model"):
        text = path.read_bytes()
    try:
        value = json.loads(text)
    except ValueError as error:
        raise NotFoundError(f"model: {name} is not JSON: {error}", place) from error
    if not isinstance(value, dict):
        raise NotFoundError(f"model: {name} is not a JSON object", place)
    return value


def _no_weights(folder: Path, name: str) -> str:
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if not pickled:
        return f"model: {name} has no weights; *.safetensors files are expected beside config.json"
    return (
        f"model: {name} has only pickled weights ({', '.join(pickled[:3])}), which can run code when they are loaded;"
        " convert them to safetensors"
    )


def _digest(paths: list[Path]) -> str:
    joined = "".join(f"{sha256(path)}  {path.name}\n" for path in paths)
    return f"sha256:{hashlib.sha256(joined.encode()).hexdigest()}"


def load_tokenizer(folder: ModelFolder, truncation_side: str) -> Any:
    """The fast tokenizer of a folder, free of padding and truncation that its file may prescribe.

    Raises NotFoundError for one that is written in Python: it tells neither its digest nor where a token stands.
    """
    from transformers import AutoTokenizer

    place = FaultPlace(field="model.tokenizer.uri", file=folder.name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder.tokenizer), local_files_only=True, trust_remote_code=False
        )
    except (*LOAD_ERRORS, ImportError) as error:
        raise NotFoundError(
            f"model: the tokenizer of {folder.name} cannot be loaded: {_first_line(error)}", place
        ) from error
    if not tokenizer.is_fast:
        raise NotFoundError(
            f"model: the tokenizer of {folder.name} is {type(tokenizer).__name__}, a slow one without tokenizer.json;"
            " set model.tokenizer.uri to a fast one with the same vocabulary, or take another model",
            place,
        )
    tokenizer.truncation_side = truncation_side
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    reset_tokenizer(tokenizer)
    return tokenizer


def reset_tokenizer(tokenizer: Any) -> None:
    """Undo padding and truncation, so that neither our batches nor the saved tokenizer carry them."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_padding()
        backend.no_truncation()


def load_model(
    folder: ModelFolder,
    spec: ModelInput,
    objective: Objective[Any],
    pad_id: int | None,
    added: Pieces | None = None,
) -> "torch.nn.Module":
    """The model with a head for this objective, in float32, frozen as asked; `added` are the tokens added to its own.

    Raises NotFoundError when transformers does not know it or tensors are missing, ConfigurationError for what of the
    spec does not fit the model.
    """
    import transformers

    config = _config(folder, spec, objective, pad_id)
    auto_class = transformers.AutoModel if spec.head else getattr(transformers, objective.auto_class)
    fresh: frozenset[str] = frozenset()
    try:
        if spec.initialize is Initialize.RANDOM:
            model = auto_class.from_config(config).float()
        else:
            model, fresh = _pretrained(folder, config, auto_class)
    except LOAD_ERRORS as error:
        raise NotFoundError(
            f"model: {folder.name} cannot be loaded by {objective.auto_class}: {_first_line(error)}",
            FaultPlace(field="model.uri", file=folder.name),
        ) from error
    if spec.dropout is not None:
        _set_dropout(model, spec.dropout)
    extend_embeddings(model, added or {})
    if spec.head is not None:
        assert objective.outputs is not None
        model = add_head(model, spec.head, objective.outputs, spec.dropout)
    if spec.adapter is not None:
        model = adapt(model, spec, objective.auto_class, added or {}, frozenset() if spec.head else fresh)
    if spec.freeze is not None:
        freeze(model, spec.freeze)
    return model  # type: ignore[no-any-return]


def _config(folder: ModelFolder, spec: ModelInput, objective: Objective[Any], pad_id: int | None) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(folder.path), local_files_only=True, trust_remote_code=False)
    except LOAD_ERRORS as error:
        raise NotFoundError(
            f"model: transformers does not know the model in {folder.name}: {_first_line(error)}",
            FaultPlace(field="model.uri", file=folder.name),
        ) from error
    names = objective.output_names
    if names is not None:
        config.problem_type = objective.problem_type
        config.id2label = dict(enumerate(names))
        config.label2id = {name: number for number, name in enumerate(names)}
    fits = (pad_id or 0) < config.get_text_config().vocab_size  # else `check_fit` says so
    if fits and "roberta" not in config.model_type:  # its positions are counted from there
        config.pad_token_id = pad_id or 0
    for name in DROPOUTS:
        if spec.dropout is not None and hasattr(config, name):
            setattr(config, name, spec.dropout)
    return config


def _pretrained(folder: ModelFolder, config: Any, auto_class: Any) -> tuple[Any, frozenset[str]]:
    """The model, and its modules that the file lacks: the head, and a pooler, of a checkpoint for masked tokens."""
    import torch

    model, info = auto_class.from_pretrained(
        str(folder.path),
        config=config,
        dtype=torch.float32,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    body = "" if model.base_model is model else f"{model.base_model_prefix}."
    absent = {*info["missing_keys"], *(key[0] for key in info["mismatched_keys"])}
    inner = {key for key in absent if key.startswith(body)}
    lacking = sorted(key for key in inner if "pooler." not in key)
    if lacking:
        raise NotFoundError(
            f"model: the weights of {folder.name} lack {len(lacking)} tensors that config.json asks for, such as"
            f" {lacking[0]}; weights and config.json belong to different models",
            FaultPlace(field="model.uri", file=folder.name),
        )
    poolers = {f"{key.partition('pooler.')[0]}pooler" for key in inner}
    return model, frozenset(poolers | {key.partition(".")[0] for key in absent - inner})


def _set_dropout(model: "torch.nn.Module", probability: float) -> None:
    from torch.nn import Dropout

    for module in model.modules():
        if isinstance(module, Dropout):
            module.p = probability


def checkpoint_activations(model: Any, name: str) -> None:
    """Compute activations again in the backward pass, with the same dropout masks (Chen et al. 2016).

    Raises ConfigurationError where the architecture cannot.
    """
    try:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    except ValueError as error:
        raise ConfigurationError(
            f"training.activationCheckpointing: the architecture of {name} does not support it; remove it",
            FaultPlace(field="training.activationCheckpointing"),
        ) from error


def check_summary(model: Any, name: str) -> None:
    """Raise ConfigurationError for a head that would read padding: texts are padded on the right.

    No `summary_type` (XLNet, XLM, FlauBERT) looks at the mask, and only the first position is never padding.
    """
    for module in model.modules():
        kind = getattr(module, "summary_type", "first")
        if kind != "first":
            raise ConfigurationError(
                f"model: the head of {name} sums a text up by summary_type {kind!r} of its config.json, which reads the"
                " padding behind the shorter texts of a batch; set model.head: {}, which reads their tokens alone",
                FaultPlace(field="model.uri", file=name),
            )


def check_encoder(model: Any, name: str) -> None:
    """Raise ConfigurationError for an encoder that a head of one's own cannot stand on."""
    from finetune_trainer.probes import why_not_headed

    reason = why_not_headed(model)
    if reason is not None:
        raise ConfigurationError(
            f"model.head: the encoder of {name}, {type(model.base_model).__name__}, does not take texts alone"
            f" ({reason}); remove model.head, or take another model",
            FaultPlace(field="model.head"),
        )


def longest_input(model: Any, tokenizer: Any) -> int | None:
    """The most tokens that model and tokenizer take; None where neither says."""
    limits = [int(tokenizer.model_max_length)] if tokenizer.model_max_length < 10**9 else []
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions and positions > 0:
        limits.append(positions - _first_position(model))
    return min(limits, default=None)


def _first_position(model: Any) -> int:
    """The row of the first token in the table of positions: RoBERTa and its kin count from the padding's id on."""
    named = model.named_modules()
    tables = [module for name, module in named if name.rpartition(".")[2] == "position_embeddings"]
    paddings = [getattr(table, "padding_idx", None) for table in tables]
    return max((padding + 1 for padding in paddings if padding is not None), default=0)


def _first_line(error: Exception) -> str:
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
