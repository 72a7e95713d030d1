"""Renders chat templates in a process that can be killed: they are code from strangers.

    python -m finetune_trainer.data.chat.sandbox

reads one JSON object a line and answers each with one. The first has the template; every other one a conversation, of
which the whole text is rendered, and for each place asked for where that turn begins and ends in it: what the text up
to the turn is, as the model is prompted for it, and what the text with the turn is. A template that needs too much
processor time ends the process, one that needs too much memory gets an error. No file or network is within reach of a
template: jinja2's sandbox allows it only values that are JSON.
"""

import json
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from traceback import walk_tb
from typing import Any

import jinja2
import jinja2.ext
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

from finetune_trainer.data.chat.marks import LEARNED, LEARNED_END, unmarked

Json = dict[str, Any]
MEMORY = 2 << 30
"""Bytes of address space."""
_SHOWN = 40


class _Refused(jinja2.TemplateError):
    """What a template says by raise_exception."""


class _Printed(jinja2.Undefined):
    """May be asked whether it is there, as templates do, but not written."""

    def __str__(self) -> str:
        self._fail_with_undefined_error()

    __iter__ = jinja2.Undefined.__iter__


class _Generation(jinja2.ext.Extension):
    """{% generation %} … {% endgeneration %}: what the model generates."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> Node:
        """Replace the block by a call that marks its text."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Macro) -> str:
        return f"{LEARNED}{caller()}{LEARNED_END}"


class Template:
    """A compiled template with the variables that every conversation has."""

    def __init__(self, source: str, variables: dict[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, jinja2.ext.loopcontrols],
            undefined=_Printed,
        )
        environment.filters["tojson"] = _to_json
        environment.globals |= {"raise_exception": _refuse, "strftime_now": self._date}
        self._template = environment.from_string(source)
        self._variables = variables
        self.dated = False
        """Whether it asked for the date."""

    def render(self, messages: list[Json], tools: list[Json] | None, *, prompt: bool = False) -> str:
        """The text of the messages; with `prompt` also what stands before the assistant's next turn."""
        return self._template.render(
            messages=messages, tools=tools, documents=None, add_generation_prompt=prompt, **self._variables
        )

    def _date(self, form: str) -> str:
        self.dated = True
        return datetime.now(UTC).strftime(form)


def _refuse(reason: str) -> None:
    raise _Refused(reason)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """As transformers writes it, with no escapes for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def answer(template: Template, asked: Json) -> Json:
    """The text of a conversation, and of the messages `turns` and `whole` where they are in it without its marks.

    A turn begins behind the prompt for it, a whole message behind the messages before it.
    """
    messages, tools = asked["messages"], asked["tools"]
    rendered: dict[tuple[int, bool], str] = {}

    def upto(count: int, *, prompt: bool = False) -> str:
        key = count, prompt
        if key not in rendered:
            rendered[key] = unmarked(template.render(messages[:count], tools, prompt=prompt))
        return rendered[key]

    try:
        marked = template.render(messages, tools, prompt=asked["prompt"])
        rendered[len(messages), asked["prompt"]] = text = unmarked(marked)
        turns = [_turn(upto, text, place) for place in asked["turns"]]
        prompted = [upto(place, prompt=True) != upto(place) for place in asked["turns"]]
        whole = [_message(upto, text, place) for place in asked["whole"]]
    except _ChangedError as error:
        return {
            "changed": error.place,
            "expected": error.expected,
            "found": error.found,
            "later": error.later,
        }
    except jinja2.UndefinedError as error:
        return {"error": f"uses what the conversation does not have: {_said(error)}"}
    except (_Refused, jinja2.exceptions.SecurityError) as error:
        return {"error": f"refuses the conversation: {_said(error)}"}
    except RecursionError:
        return {"error": "calls itself without end"}
    except MemoryError:
        return {"error": f"needs more than {MEMORY >> 30} GiB of memory"}
    except Exception as error:  # noqa: BLE001 - whatever the template's code does wrong
        return {"error": f"fails: {type(error).__name__}: {_said(error)}"}
    return {
        "text": marked,
        "turns": turns,
        "prompted": prompted,
        "whole": whole,
        "dated": template.dated,
    }


def _said(error: Exception) -> str:
    """What an error says, and the line of the template that it is from."""
    lines = [line for frame, line in walk_tb(error.__traceback__) if frame.f_code.co_filename == "<template>"]
    return f"{str(error).rstrip('.')[:200]}{f', line {lines[-1]}' if lines else ''}"


class _ChangedError(Exception):
    """The text of a conversation does not begin with the text of its first messages."""

    def __init__(self, place: int, expected: str, found: str, *, later: bool = True) -> None:
        super().__init__()
        same = next(
            (at for at, (one, other) in enumerate(zip(expected, found, strict=False)) if one != other),
            min(len(expected), len(found)),
        )
        self.place, self.later = place, later
        self.expected, self.found = (each[same : same + _SHOWN] for each in (expected, found))


def _turn(upto: Callable[..., str], text: str, place: int) -> tuple[int, int]:
    prompt, turn = upto(place, prompt=True), upto(place + 1).rstrip()
    if not text.startswith(turn):
        raise _ChangedError(place, turn, text)
    if not turn.startswith(prompt.rstrip()) or not text.startswith(prompt):
        raise _ChangedError(place, prompt, text, later=False)
    return len(prompt), len(turn)


def _message(upto: Callable[..., str], text: str, place: int) -> tuple[int, int]:
    before, after = upto(place) if place else "", upto(place + 1)
    for part in (before, after):
        if not text.startswith(part.rstrip()):
            raise _ChangedError(place, part, text)
    return min(len(before), len(text)), min(len(after), len(text))


def _answers(lines: Iterator[str], seconds: float) -> Iterator[Json]:
    given = json.loads(next(lines))
    _arm(seconds)
    try:
        template = Template(given["template"], given["variables"])
    except jinja2.TemplateSyntaxError as error:
        yield {"error": f"is no Jinja template: {(error.message or '').rstrip('.')}, line {error.lineno}"}
        return
    except (RecursionError, MemoryError) as error:
        yield {"error": f"is no Jinja template: {type(error).__name__}"}
        return
    yield {}
    for line in lines:
        asked = json.loads(line)
        _arm(seconds)
        found = answer(template, asked)
        signal.setitimer(signal.ITIMER_PROF, 0)
        yield found


def _arm(seconds: float) -> None:
    """End this process, whatever it does, once it has used so much more processor time."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def main() -> None:
    """Serve until the input ends."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for the trainer, whose end ends this
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for found in _answers(iter(sys.stdin), float(sys.argv[1])):
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
