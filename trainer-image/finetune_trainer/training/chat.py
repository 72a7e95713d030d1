"""The tokenizer of a run and, where its rows are conversations, the chat template."""

import hashlib
import logging
from itertools import islice
from typing import Any, NamedTuple

from finetune_api.run import RunConfig
from finetune_trainer.data.chat.encode import ChatEncoding, chat_encoding
from finetune_trainer.data.chat.report import report_beside
from finetune_trainer.data.chat.templates import check_tokens
from finetune_trainer.data.dataset import Dataset
from finetune_trainer.data.encoding import Encoding
from finetune_trainer.data.tokens import encoded
from finetune_trainer.models.embeddings import ReplacedIds, add_tokens
from finetune_trainer.models.folder import ModelFolder
from finetune_trainer.models.tokenizer import load_tokenizer
from finetune_trainer.reporting.recorder import Recorder

logger = logging.getLogger(__name__)

FIRST_ROWS = 32
"""Conversations of each part that are written before a model is loaded."""


class Words(NamedTuple):
    """A tokenizer with a run's tokens and template."""

    tokenizer: Any
    added: ReplacedIds
    """What its new tokens replace."""
    chat: ChatEncoding | None
    """How conversations are written; None for rows that are texts."""


def prepare_tokenizer(config: RunConfig, folder: ModelFolder, dataset: Dataset) -> Words:
    """The tokenizer of a run.

    Raises ConfigurationError where conversations have no template.
    """
    tokenizer = load_tokenizer(folder, config.dataset.preprocessing.truncation.value.lower())
    options, path = config.objective.causal_lm, config.dataset.chat_template_path
    chat = chat_encoding(tokenizer, options, path) if dataset.train.chat else None
    words = config.model.add_tokens
    added = add_tokens(tokenizer, words, control=chat.template.control_words(words) if chat else [])
    if chat is not None:
        check_tokens(chat.template, tokenizer)
        tokenizer.chat_template = chat.template.source  # as it is published
    return Words(tokenizer, added, chat)


def encoding(config: RunConfig, words: Words, max_tokens: int) -> Encoding:
    """How the rows of a run become tokens."""
    options = config.objective.causal_lm
    return Encoding(words.tokenizer, max_tokens, options.mask_prompt if options else False, words.chat)


def check_conversations(
    config: RunConfig, folder: ModelFolder, dataset: Dataset, recorder: Recorder
) -> str | None:
    """Write and tokenize the first rows, so that what is wrong with a template is said before a model is loaded.

    Returns the sha256 of the template, None for rows that are texts. Raises ConfigurationError and DataError.
    """
    if dataset.train.chat is None:
        return None
    words = prepare_tokenizer(config, folder, dataset)
    assert words.chat is not None
    template, how = words.chat.template, encoding(config, words, config.dataset.preprocessing.max_length)
    for source in dataset.sources:
        if rows := list(islice(source.rows, FIRST_ROWS)):
            encoded(source, rows, dataset.objective, how)
    report_beside(dataset.sources, words.chat.chats, recorder)
    logger.info(f"conversations are written with the chat template {template.described}")
    return f"sha256:{hashlib.sha256(template.source.encode()).hexdigest()}"
