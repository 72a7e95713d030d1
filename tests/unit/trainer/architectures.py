"""Tiny checkpoints of five kinds of architecture with random weights: model and tokenizer as the real ones come."""

from functools import partial
from pathlib import Path
from typing import Any

from unit.trainer.tiny import WORDS, build_model

END = "<|endoftext|>"
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def build(architecture: str, folder: Path) -> Path:
    """A folder with a checkpoint; the tokenizers of GPT-2 and Llama have no padding token, as theirs."""
    import torch

    torch.manual_seed(7)
    kinds = {"bert": build_model, "roberta": _roberta, "albert": _albert, "gpt2": _gpt2, "llama": _llama}
    kinds["llama of two groups"] = partial(_llama, groups=2)
    return kinds[architecture](folder)


def _bpe(special: list[str], **parts: Any) -> Any:
    """A byte-level BPE tokenizer over the words of the reviews."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    words = [word for word in WORDS if not word.startswith("##")]
    tokenizer.train_from_iterator([" ".join(words)] * 3, trainer)
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    return tokenizer


def _save_tokenizer(folder: Path, tokenizer: Any, **names: str) -> int:
    from transformers import PreTrainedTokenizerFast

    inputs = ["input_ids", "attention_mask"]
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **names).save_pretrained(
        folder
    )
    return int(tokenizer.get_vocab_size())


def _roberta(folder: Path) -> Path:
    from tokenizers.processors import RobertaProcessing
    from transformers import RobertaConfig, RobertaModel

    tokenizer = _bpe(
        ["<s>", "<pad>", "</s>", "<unk>"], post_processor=RobertaProcessing(("</s>", 2), ("<s>", 0))
    )
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    size = _save_tokenizer(folder, tokenizer, **names)
    config = RobertaConfig(
        vocab_size=size, max_position_embeddings=66, type_vocab_size=1, pad_token_id=1, **SIZES
    )
    RobertaModel(config).save_pretrained(folder)
    return folder


def _albert(folder: Path) -> Path:
    """With BERT's tokenizer; two passes through one layer, behind embeddings of a smaller size."""
    from transformers import AlbertConfig, AlbertModel, BertConfig

    size = BertConfig.from_pretrained(build_model(folder)).vocab_size
    config = AlbertConfig(
        vocab_size=size, embedding_size=16, max_position_embeddings=64, type_vocab_size=2, **SIZES
    )
    AlbertModel(config).save_pretrained(folder)
    return folder


def _gpt2(folder: Path) -> Path:
    from transformers import GPT2Config, GPT2LMHeadModel

    size = _save_tokenizer(folder, _bpe([END]), bos_token=END, eos_token=END)
    config = GPT2Config(
        vocab_size=size, n_positions=64, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def _llama(folder: Path, groups: int = 1) -> Path:
    """With this number of key-value heads."""
    from tokenizers.processors import TemplateProcessing
    from transformers import LlamaConfig, LlamaForCausalLM

    begin = TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)])
    tokenizer = _bpe(["<s>", "</s>"], post_processor=begin)
    size = _save_tokenizer(folder, tokenizer, bos_token="<s>", eos_token="</s>")
    config = LlamaConfig(
        vocab_size=size,
        max_position_embeddings=64,
        num_key_value_heads=groups,
        bos_token_id=0,
        eos_token_id=1,
        **SIZES,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
