"""Says how much of the texts was cut off at maxLength, and what that costs."""

import logging

import numpy as np

from finetune_api.status import ResolvedData, ResolvedStatus
from finetune_trainer.data.chat.report import chat_counts, report_chats
from finetune_trainer.data.learnable import described_same, same_answers
from finetune_trainer.data.tokens import Examples
from finetune_trainer.objectives.labels import named
from finetune_trainer.reporting.recorder import Recorder

logger = logging.getLogger(__name__)

CAVEAT_SHARE = 0.1
"""Share of the tokens from which on truncation is a caveat of the result."""
CHUNK = 1 << 20


def report_truncation(
    parts: dict[str, Examples], max_length: int, names: dict[int, str], recorder: Recorder, *, paired: bool
) -> None:
    """Log what each part lost, as a caveat where it is much, and add the counts to status.resolved.

    `names` are the labels, by their id, that words of the training rows have; `paired` says that a row's two answers
    are compared with each other.
    """
    resolved = recorder.report.resolved or ResolvedStatus()
    counted = {}
    for part, examples in parts.items():
        _report_part(part, examples, max_length, recorder)
        if paired:
            _report_same(part, examples, recorder)
        if examples.is_chat:
            report_chats(part, examples, max_length, recorder)
        known: ResolvedData = getattr(resolved, part) or ResolvedData()
        counts = _counts(examples) | (chat_counts(examples) if examples.is_chat else {})
        counted[part] = known.model_copy(update=counts)
    if names:
        _report_lost_labels(parts["train"], names, recorder)
    recorder.update(resolved=resolved.model_copy(update=counted))


def _counts(examples: Examples) -> dict[str, int]:
    cut = int(examples.cut.sum())
    return {
        "truncated_rows": int(np.count_nonzero(examples.cut)),
        "tokens": len(examples.ids) + cut,
        "truncated_tokens": cut,
    }


def _report_part(part: str, examples: Examples, max_length: int, recorder: Recorder) -> None:
    counts = _counts(examples)
    share = counts["truncated_tokens"] / max(1, counts["tokens"])
    say = recorder.caveat if share > CAVEAT_SHARE else logger.info
    if counts["truncated_rows"]:
        say(
            f"{part}: {counts['truncated_rows']:,} of {len(examples):,} texts are longer than {max_length} tokens;"
            f" {share:.0%} of all tokens are cut (dataset.preprocessing.maxLength)"
        )
    if doubled := int(np.count_nonzero(examples.doubled)):
        logger.warning(
            f"{part}: {doubled:,} of {len(examples):,} texts already begin or end with the tokenizer's special tokens;"
            + (
                " these were not added a second time"
                if examples.own_special
                else " they now stand there twice, as they will for users of the model; remove them from the texts"
            )
        )
    lost = int(examples.lost_words.sum())
    if lost:
        logger.warning(
            f"{part}: {lost:,} words have no token: they were cut off, or the tokenizer drops them; they are neither"
            " learned nor scored"
        )


def _report_same(part: str, examples: Examples, recorder: Recorder) -> None:
    if same := same_answers(examples):
        recorder.caveat(f"{part}: {described_same(examples, same)}")


def _report_lost_labels(train: Examples, names: dict[int, str], recorder: Recorder) -> None:
    """Labels of words that no target has any more, though rows had them."""
    counts = np.zeros(max(names) + 1, dtype=np.int64)
    for start in range(0, len(train.targets), CHUNK):
        chunk = np.asarray(train.targets[start : start + CHUNK])
        counts += np.bincount(chunk[chunk >= 0], minlength=len(counts))
    lost = [name for number, name in names.items() if not counts[number]]
    if lost:
        recorder.caveat(
            f"no training word with {'the label' if len(lost) == 1 else 'the labels'} {named(lost)} is left after"
            " truncation: the model does not learn it; raise dataset.preprocessing.maxLength, or split the texts"
        )
