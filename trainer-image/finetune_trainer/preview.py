"""Prints rows as a run sees them: cleaned text, tokens, which of them are learned, what is cut. It trains nothing.

    python -m finetune_trainer.preview RUN.json [--part train] [--rows 3]

One JSON object per line: first what was found in the part's files, then its rows.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from finetune_api.run import ExitCode, RunConfig
from finetune_trainer.config import read_config
from finetune_trainer.data.chat.conversation import Conversation
from finetune_trainer.data.chat.report import report_beside
from finetune_trainer.data.dataset import Dataset, read_dataset
from finetune_trainer.data.encoding import Encoding
from finetune_trainer.data.rows import Row
from finetune_trainer.data.sources import Source
from finetune_trainer.data.tokens import encoded, why_untrained
from finetune_trainer.errors import ConfigurationError, TrainerError
from finetune_trainer.hub.fetch import fetch, uses_hub
from finetune_trainer.models.adapter_folder import check_model
from finetune_trainer.models.load import empty_model
from finetune_trainer.models.tokenizer import longest_input
from finetune_trainer.objectives.base import IGNORED
from finetune_trainer.process.environment import OFFLINE, QUIET
from finetune_trainer.process.stop import Stop
from finetune_trainer.reporting.log import configure_logging
from finetune_trainer.reporting.recorder import Recorder
from finetune_trainer.training.assembly import limit_tokens
from finetune_trainer.training.base_model import find_base
from finetune_trainer.training.chat import encoding, prepare_tokenizer

Json = dict[str, Any]

PARTS = ("train", "validation", "test")


def preview(config: RunConfig, part: str, count: int) -> Iterator[Json]:
    """What was found in a part's files, then its first `count` rows. Raises TrainerError as a run does."""
    recorder, stop = Recorder(), Stop()
    config = fetch(config, recorder, stop)
    dataset = read_dataset(config, recorder)
    source = _source(dataset, part)
    how = _encoding(config, dataset, stop)
    if how.chat is not None:
        report_beside(dataset.sources, how.chat.chats, recorder)
    found = source.resolved.to_json()
    yield {
        "part": part,
        "files": found,
        "rows": len(source.rows),
        "maxTokens": how.max_length,
        "notes": recorder.caveats,
        **({"chatTemplate": how.chat.template.described, "train": how.chat.train} if how.chat else {}),
    }
    rows = list(islice(source.rows, count))
    yield from _described(rows, source, dataset, how) if rows else ()


def _source(dataset: Dataset, part: str) -> Source:
    sources = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    source = sources[part]
    if source is None:
        raise ConfigurationError(f"dataset.{part} is not set; there are train and validation rows")
    return source


def _encoding(config: RunConfig, dataset: Dataset, stop: Stop) -> Encoding:
    """How the run tokenizes: with its tokenizer, and no more tokens than its model takes."""
    folder = check_model(config.model, partial(find_base, config=config, stop=stop))
    words = prepare_tokenizer(config, folder, dataset)
    model = empty_model(folder, config.model, dataset.objective)
    limit = limit_tokens(config.dataset.preprocessing.max_length, longest_input(model, words.tokenizer))
    return encoding(config, words, limit)


def _described(rows: list[Row], source: Source, dataset: Dataset, how: Encoding) -> Iterator[Json]:
    found = encoded(source, rows, dataset.objective, how)
    kept = found.chat.kept if found.chat else list(range(len(rows)))
    dropped = dict(found.chat.dropped) if found.chat else {}
    for place, row in enumerate(rows):
        if place in dropped:
            yield _dropped(row, source, why_untrained(dropped[place], how.max_length))
            continue
        number = kept.index(place)
        ids, targets = found.ids[number], np.asarray(found.targets[number])
        second = found.answers.firsts[number] if found.answers is not None else None
        if (
            dataset.objective.looks_ahead
        ):  # the second answer is that of another row, which may not be among these
            ids, targets, second = ids[:second], targets[:second], None
        file, line = source.place(row.line)
        shown: Json = {
            "file": file,
            "row": line,
            "text": row.text,
            "label": row.label,
            "tokens": how.tokenizer.convert_ids_to_tokens(ids.tolist()),
            "cut": found.cut[number],
        }
        if row.chat is not None and found.chat is not None:
            shown |= _of_chat(row.chat) | {"cutTurns": found.chat.cut_turns[number]}
        if row.pair is not None:
            shown["prompt" if dataset.objective.per_token else "textPair"] = row.pair
        if row.rejected is not None:
            shown["rejected"] = row.rejected
        if second is not None:
            shown["secondAt"] = second
        if dataset.objective.per_token:
            shown["learned"] = (targets != IGNORED).tolist()
        yield shown


def _of_chat(chat: Conversation) -> Json:
    """What the template takes."""
    return {"messages": list(chat.messages), **({"tools": list(chat.tools)} if chat.tools else {})}


def _dropped(row: Row, source: Source, why: str) -> Json:
    """A conversation without a trained token."""
    file, line = source.place(row.line)
    nothing: Json = {"label": None, "tokens": [], "learned": [], "cut": 0}
    return {"file": file, "row": line, "text": row.text, "dropped": why} | nothing


def main(arguments: list[str] | None = None) -> int:
    """Print the preview, and return the exit code of a run that would fail the same way."""
    parser = argparse.ArgumentParser(
        "python -m finetune_trainer.preview", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("run_json", metavar="RUN.json", type=Path, help="the RunConfig")
    parser.add_argument("--part", choices=PARTS, default="train", help="default %(default)s")
    parser.add_argument("--rows", type=int, default=3, help="default %(default)s")
    given = parser.parse_args(arguments)
    os.environ.update(QUIET)
    configure_logging(sys.stderr)
    try:
        config = read_config(given.run_json)
        if not isinstance(config, RunConfig):
            raise ConfigurationError(f"{given.run_json}: rows are shown of a RunConfig only")
        os.environ.update({} if uses_hub(config) else OFFLINE)
        for line in preview(config, given.part, given.rows):
            print(json.dumps(line, ensure_ascii=False), flush=True)
    except TrainerError as error:
        print(f"finetune_trainer: exit {error.code:d}: {error.message}", file=sys.stderr)
        return error.code
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
