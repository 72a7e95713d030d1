"""Says what became of conversations on their way to tokens: dropped rows, cut turns, control tokens."""

import logging
from collections.abc import Sequence

import numpy as np

from finetune_trainer.data.chat.tokens import Chats
from finetune_trainer.data.encoded import Untrained
from finetune_trainer.data.files import place_of
from finetune_trainer.data.sources import Beside, Source
from finetune_trainer.data.tokens import Examples, why_untrained
from finetune_trainer.objectives.base import IGNORED
from finetune_trainer.reporting.recorder import Recorder

logger = logging.getLogger(__name__)

ROWS_NAMED = 5
KEYS_NAMED, KEY_LENGTH = 4, 40
CHUNK = 1 << 20


def chat_counts(examples: Examples) -> dict[str, int]:
    """For status.resolved."""
    targets = examples.targets
    trained = sum(
        int(np.count_nonzero(targets[start : start + CHUNK] != IGNORED))
        for start in range(0, len(targets), CHUNK)
    )
    return {
        "trained_tokens": trained,
        "untrained_rows": len(examples.untrained),
        "cut_turns": int(examples.cut_turns.sum()),
        "control_tokens": int(examples.control_tokens.sum()),
    }


def report_chats(part: str, examples: Examples, max_length: int, recorder: Recorder) -> None:
    """Log the counts; those that a user has to know of a model are caveats."""
    counts = chat_counts(examples)
    share = counts["trained_tokens"] / max(1, len(examples.ids))
    logger.info(
        f"{part}: {counts['trained_tokens']:,} of {len(examples.ids):,} tokens of {len(examples):,} conversations are"
        f" learned ({share:.0%})"
    )
    _report_left_out(part, examples, max_length, recorder)
    if cut := counts["cut_turns"]:
        rows = examples.lines[examples.cut_turns > 0]
        recorder.caveat(
            f"{part}: {cut:,} trained turns lost the token that ends them, as {len(rows):,} conversations are longer"
            f" than {max_length} tokens ({_rows(examples, rows)}); raise dataset.preprocessing.maxLength, or split them"
        )
    if controls := counts["control_tokens"]:
        rows = examples.lines[examples.control_tokens > 0]
        logger.warning(
            f"{part}: {controls:,} control tokens stand in the text of messages ({_rows(examples, rows)}); they are"
            " tokenized as plain text"
        )
    if len(examples.omitted):
        recorder.caveat(
            f"{part}: of {len(examples.omitted):,} conversations the chat template does not write all that messages"
            f" say ({_rows(examples, examples.omitted)}); finetune data show prints what it writes"
        )
    if inside := int(examples.turns_inside.sum()):
        logger.warning(
            f"{part}: {inside:,} trained turns begin inside a token, which the model reads in two when it is prompted"
        )
    if examples.dated.any():
        logger.warning(
            f"{part}: the chat template writes the date of today; a run on another day has other tokens"
        )


def report_beside(sources: Sequence[Source], chats: Chats, recorder: Recorder) -> None:
    """A caveat of the keys of messages that nothing reads, as the template does not write them; each is said once."""
    known = set[str]()
    for source in sources:
        new = [each for each in source.beside if each.key not in known]
        known |= {each.key for each in new}
        unread = [each for each in new if not chats.writes(each.chat, each.key)]
        for found in (each for each in unread if each.key == "role"):
            recorder.caveat(
                f"{source.field}: the chat template does not know the role developer ({_counted(source, found)}), so it"
                " is written as system; prompt the model with a system message too"
            )
        if most := sorted((each for each in unread if each.key != "role"), key=lambda each: -each.rows):
            keys = [f"{each.key[:KEY_LENGTH]} ({_counted(source, each)})" for each in most[:KEYS_NAMED]]
            more = f" and {len(most) - KEYS_NAMED} more" if len(most) > KEYS_NAMED else ""
            recorder.caveat(
                f"{source.field}: the chat template does not write, and nothing else reads, what messages have in"
                f" {', '.join(keys)}{more}; write into content what the model is to read, and remove the others"
            )


def _counted(source: Source, found: Beside) -> str:
    file, row = source.place(found.line)
    where = f"row {row} of {file}" if len(source.files) > 1 else f"row {row}"
    return f"{found.rows:,} conversations, the first is {where}"


def _report_left_out(part: str, examples: Examples, max_length: int, recorder: Recorder) -> None:
    """What of the conversations is not learned, or not read."""
    for why in Untrained:
        rows = examples.untrained[examples.untrained_why == why]
        if len(rows):
            recorder.caveat(
                f"{part}: {len(rows):,} conversations {why_untrained(why, max_length)}, and are dropped"
                f" ({_rows(examples, rows)})"
            )
    if len(examples.greetings):
        recorder.caveat(
            f"{part}: {len(examples.greetings):,} conversations begin with the assistant"
            f" ({_rows(examples, examples.greetings)}): what it says before anybody asks is read and not learned; to"
            " learn it, write train: true in the message"
        )
    if len(examples.ignored):
        recorder.caveat(
            f"{part}: {len(examples.ignored):,} conversations have train: true, or another name of it, in messages that"
            f" objective.causalLM.train does not choose ({_rows(examples, examples.ignored)}): they are read and not"
            " learned; Assistant chooses all answers, and All all messages"
        )
    if len(examples.unanswered):
        recorder.caveat(
            f"{part}: {len(examples.unanswered):,} conversations do not end with the assistant"
            f" ({_rows(examples, examples.unanswered)}): messages that it does not answer are cut off"
        )


def _rows(examples: Examples, lines: np.ndarray[tuple[int], np.dtype[np.int64]]) -> str:
    """The first of some rows, as a user knows them."""
    named, several = list[str](), len(examples.files) > 1
    for line in lines[:ROWS_NAMED].tolist():
        file, row = place_of(line, examples.name, examples.files)
        named.append(f"{row} of {file}" if several else str(row))
    more = f" and {len(lines) - ROWS_NAMED:,} more" if len(lines) > ROWS_NAMED else ""
    return f"{'row' if len(lines) == 1 else 'rows'} {', '.join(named)}{more}"
