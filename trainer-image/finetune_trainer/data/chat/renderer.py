"""The process that renders a chat template, and its answers."""

import json
import signal
import subprocess
import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.run import FaultPlace
from finetune_trainer.data.chat.marks import Marked, Span, read_marks
from finetune_trainer.data.chat.templates import FIELD, TOKENIZER_FIELD, ChatTemplate
from finetune_trainer.errors import ConfigurationError

Json = dict[str, Any]
SANDBOX = "finetune_trainer.data.chat.sandbox"
SECONDS = 5.0
"""Of processor time for a conversation; a long one takes milliseconds."""


class RenderError(ValueError):
    """Why the template gives no text of a conversation, as the end of 'the chat template …', without a remedy."""


class ChangedPrefixError(RenderError):
    """A turn is written otherwise than up to it, or once `later` messages follow."""

    def __init__(self, place: int, expected: str, found: str, *, later: bool) -> None:
        super().__init__()
        self.place, self.expected, self.found, self.later = place, expected, found, later


@dataclass(frozen=True)
class Rendered:
    """A conversation as one text."""

    marked: Marked
    turns: tuple[Span, ...]
    """Of each turn asked for, where in the text the model generates it."""
    prompted: tuple[bool, ...]
    """Of each turn asked for, whether the template writes something to prompt for it (add_generation_prompt)."""
    whole: tuple[Span, ...]
    """Of each message asked for, where it is written, with what names its role."""
    dated: bool
    """Whether the template wrote the date of today."""


class Renderer:
    """A template in a separate process, which starts with the first conversation."""

    def __init__(self, template: ChatTemplate, variables: dict[str, str], seconds: float = SECONDS) -> None:
        self._template, self._variables, self._seconds = template, variables, seconds
        self._process: subprocess.Popen[str] | None = None

    def render(
        self,
        messages: Sequence[Json],
        tools: Sequence[Json] | None,
        turns: Sequence[int] = (),
        whole: Sequence[int] = (),
        *,
        prompt: bool = False,
    ) -> Rendered:
        """Raises RenderError for a conversation, ConfigurationError for a template that cannot be read."""
        asked = {"messages": messages, "tools": tools, "turns": turns, "whole": whole, "prompt": prompt}
        found = self._ask(asked)
        if "changed" in found:
            raise ChangedPrefixError(
                found["changed"], found["expected"], found["found"], later=found["later"]
            )
        if "error" in found:
            raise RenderError(found["error"])
        try:
            marked = read_marks(found["text"])
        except ValueError as error:
            raise RenderError(str(error)) from None
        if "\\ufdd" in marked.text:
            raise RenderError("writes characters as escapes; write tojson without ensure_ascii")
        return Rendered(
            marked,
            _spans(found["turns"]),
            tuple(found["prompted"]),
            _spans(found["whole"]),
            found["dated"],
        )

    def _ask(self, asked: Json) -> Json:
        process = self._process or self._start()
        try:
            return _exchange(process, asked)
        except (BrokenPipeError, EOFError):
            ended, self._process = process.wait(), None
            if ended in (-signal.SIGPROF, -signal.SIGXCPU):
                reason = f"needs more than {self._seconds:g} s of processor time; does it loop without end?"
                raise RenderError(reason) from None
            raise RenderError(f"ended its process with code {ended}: it may need too much memory") from None

    def _start(self) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", SANDBOX, str(self._seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        weakref.finalize(self, _end, process)
        try:
            found = _exchange(process, {"template": self._template.source, "variables": self._variables})
        except (BrokenPipeError, EOFError):
            found = {"error": "cannot be compiled"}
        if "error" in found:
            _end(process)
            template = self._template
            raise ConfigurationError(
                f"the chat template {template.described} {found['error']}; {template.remedy}",
                FaultPlace(field=TOKENIZER_FIELD if template.fixed else FIELD),
            )
        self._process = process
        return process


def _spans(found: list[list[int]]) -> tuple[Span, ...]:
    return tuple((start, end) for start, end in found)


def _exchange(process: "subprocess.Popen[str]", asked: Json) -> Json:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(asked) + "\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise EOFError
    found: Json = json.loads(line)
    return found


def _end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except BrokenPipeError:
                continue
    process.wait()
