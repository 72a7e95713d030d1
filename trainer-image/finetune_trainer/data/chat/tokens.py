"""From a conversation to its tokens, and which of them are learned.

What is learned of a turn is found twice where the template has generation blocks: by the difference between the prompt
for the turn and the text with it, and by the blocks. Both must give the same tokens.
"""

import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune_api.objective import TrainedTurns
from finetune_trainer.data.chat.conversation import DEVELOPER, REASONING, Conversation, named
from finetune_trainer.data.chat.marks import Span, any_of, with_plain
from finetune_trainer.data.chat.renderer import ChangedPrefixError, Rendered, Renderer, RenderError
from finetune_trainer.data.chat.templates import ChatTemplate

PROBE = "x"
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class ChatError(ValueError):
    """Why a conversation cannot be learned, as a sentence without its place."""


class _ChangedError(ChatError):
    """Of a template that writes a turn otherwise than up to it."""


@dataclass(frozen=True)
class ChatTokens:
    """A conversation as a model reads it."""

    text: str
    ids: Ints
    trained: Bools
    """Of every token, whether it is learned."""
    turns: tuple[Span, ...]
    """Of every trained turn its first token, and the one behind the token that ends it."""
    control_tokens: int = 0
    """Control tokens in the text of messages, which are plain text here."""
    inside: int = 0
    """Trained turns that begin inside a token."""
    omitted: tuple[int, ...] = ()
    """Messages whose text the template does not write."""
    dated: bool = False
    """Whether the template writes the date of today."""
    unanswered: int = 0
    """Messages behind the last one of the assistant, which are cut off."""
    ignored: int = 0
    """Messages with train: true that are not learned."""


class Chats:
    """Writes conversations with a template and tokenizes them with a tokenizer."""

    def __init__(self, tokenizer: Any, template: ChatTemplate, train: TrainedTurns | None = None) -> None:
        self._tokenizer, self._template = tokenizer, template
        self._train = train or TrainedTurns.ASSISTANT
        variables = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if token}
        self._renderer = Renderer(template, variables)

    def tokens(self, chat: Conversation) -> ChatTokens:
        """Raises ChatError."""
        given, flagged = len(chat.messages), chat.flagged
        chat = chat if self._train is TrainedTurns.ALL else chat.to_last_answer
        turns, whole = self._turns(chat), list[int]()
        if self._train is TrainedTurns.ALL:
            whole = [place for place, trained in enumerate(chat.trained) if not trained]
        try:
            rendered, count = self._rendered(chat, turns, whole)
        except _ChangedError:
            if self._train is not TrainedTurns.ALL or not turns:
                raise
            turns = []  # of no use but to find the token that ends a turn
            rendered, count = self._rendered(chat, turns, whole)
        found = self._tokenized(rendered)
        self._check_tools(chat, rendered)
        spans = tuple(
            self._ended(found, span, place) for span, place in zip(rendered.turns, turns, strict=True)
        )
        if self._train is TrainedTurns.ALL:
            trained, flagged = ~found.within(rendered.whole), frozenset[int]()
        else:
            trained = found.within(tuple((start, stop) for start, stop in spans))
            self._check_headers(chat, rendered, turns)
            self._check_blocks(chat, found, rendered, spans, turns)
        return ChatTokens(
            rendered.marked.text,
            found.ids,
            trained,
            tuple(found.tokens_of(span) for span in spans),
            count,
            sum(found.splits(start) for start, _ in spans),
            _omitted(chat, rendered, turns),
            rendered.dated,
            given - len(chat.messages),
            len(flagged.difference(turns)),
        )

    def prompt(self, chat: Conversation) -> Ints:
        """The tokens that the model is asked to continue after the last message. Raises ChatError."""
        rendered, _ = self._rendered(chat, [], [], prompt=True)
        return self._tokenized(rendered).ids

    def writes(self, chat: Conversation, key: str) -> bool:
        """Whether the template writes what messages have in one of `chat.beside`. Raises ChatError."""
        if key == "role":
            return self._knows_developer
        with_it, _ = self._rendered(chat, [], [])
        try:
            return self._rendered(chat.without(key), [], [])[0].marked != with_it.marked
        except ChatError:
            return True

    @cached_property
    def _knows_developer(self) -> bool:
        """Whether the template names OpenAI's role; for others its messages are the system's."""
        return re.search(f"""['"]{DEVELOPER}['"]""", self._template.source) is not None

    def _turns(self, chat: Conversation) -> list[int]:
        turns = [place for place in chat.assistants if chat.trained[place] and place not in chat.unasked]
        if self._train is TrainedTurns.ASSISTANT:
            return turns
        return turns[-1:] if turns and turns[-1] == chat.assistants[-1] else []

    def _rendered(
        self, chat: Conversation, turns: list[int], whole: list[int], *, prompt: bool = False
    ) -> tuple[Rendered, int]:
        known = chat if self._knows_developer else chat.without("role")
        messages, tools = with_plain(known.messages, self._control), with_plain(chat.tools, self._control)
        try:
            found = self._renderer.render(messages, tools, turns, whole, prompt=prompt)
        except ChangedPrefixError as error:
            raise _ChangedError(self._changed(chat, error)) from None
        except RenderError as error:
            template = self._template
            raise ChatError(
                f"the chat template {template.described} {error}; {template.remedy}, or change the row"
            ) from None
        return found, len(found.marked.plain)

    def _changed(self, chat: Conversation, error: ChangedPrefixError) -> str:
        where = named(error.place, chat.messages[error.place]["role"])
        shown = f"{error.found!r} where {error.expected!r} is written for the messages up to it"
        if error.later:
            last = (
                "" if self._train is TrainedTurns.LAST_TURN else "set objective.causalLM.train: LastTurn, or "
            )
            return (
                f"the chat template writes {where} otherwise once later messages follow: {shown}. A model would learn"
                f" what it never reads; {last}{self._template.remedy}"
            )
        return f"the chat template prompts for {where} otherwise than it writes it: {shown}; {self._template.remedy}"

    def _check_tools(self, chat: Conversation, rendered: Rendered) -> None:
        """Tools and calls that a template does not know would be dropped."""
        text = rendered.marked.text
        for tool in chat.tools or ():
            if tool["function"]["name"] not in text:
                raise ChatError(
                    f"the chat template does not write the tool {tool['function']['name']!r}: it knows no tools;"
                    f" {self._template.remedy}, or remove the column"
                )
        for place, message in enumerate(chat.messages):
            for call in message.get("tool_calls", ()):
                if call["function"]["name"] not in text:
                    raise ChatError(
                        f"the chat template does not write the call of {call['function']['name']!r} in"
                        f" {named(place, 'assistant')}: it knows no tool calls; {self._template.remedy}"
                    )

    def _ended(self, found: "_Tokenized", span: Span, place: int) -> Span:
        """From the first character of a turn to the end of the token that ends it."""
        start, end = span
        inside = np.flatnonzero((found.starts >= start) & (found.ends <= end) & (found.ends > found.starts))
        for token in reversed(inside.tolist()):
            if found.text[found.starts[token] : found.ends[token]].isspace():
                continue
            if int(found.ids[token]) in self._control_ids and not found.plain[token]:
                return start, int(found.ends[token])
            break
        ending = found.text[start:end][-30:]
        raise ChatError(
            f"the chat template ends {named(place, 'assistant')} with no token that stops a model, but with {ending!r}:"
            " a model that learns it never stops; a template has to end turns by eos_token or another token of the"
            f" tokenizer: {self._template.remedy}"
        )

    def _check_headers(self, chat: Conversation, rendered: Rendered, turns: list[int]) -> None:
        """A template that ignores add_generation_prompt and names the role before a turn has the model generate it.

        One that writes all of that behind the user's message has nothing to add to a prompt.
        """
        for (start, end), prompted, place in zip(rendered.turns, rendered.prompted, turns, strict=True):
            message, text = chat.messages[place], rendered.marked.text[start:end]
            said = _bare(message.get("content", ""))
            if prompted or not said or said not in text or message.get(REASONING[0]):
                continue
            if header := text.partition(said)[0].strip():
                raise ChatError(
                    f"the chat template ignores add_generation_prompt, so {header!r} before {named(place, 'assistant')}"
                    " would be learned as a part of the answer; write it also at the end of the template, between"
                    f" {{% if add_generation_prompt %}} and {{% endif %}}, or {self._template.remedy}"
                )

    def _check_blocks(
        self,
        chat: Conversation,
        found: "_Tokenized",
        rendered: Rendered,
        spans: tuple[Span, ...],
        turns: list[int],
    ) -> None:
        """Where the template has generation blocks, they hold the tokens that are learned, and no others."""
        blocks = rendered.marked.learned
        if not blocks and not self.has_blocks:
            return
        marked = found.within(blocks)
        for (start, stop), (_, end), place in zip(spans, rendered.turns, turns, strict=True):
            behind = found.within(((stop, end),))
            turn = found.within(((start, end),))
            wrong = np.flatnonzero(turn & ~behind & ~marked)
            if len(wrong):
                token = found.text[found.starts[wrong[0]] : found.ends[wrong[0]]]
                raise ChatError(
                    f"the generation blocks of the chat template omit {token!r}"
                    f"{', which stops the model,' if found.ends[wrong[0]] == stop else ''} in"
                    f" {named(place, 'assistant')}: put it between {{% generation %}} and {{% endgeneration %}}, or"
                    " remove the blocks"
                )
        if tuple(turns) == chat.assistants:
            outside = np.flatnonzero(marked & ~found.within(rendered.turns) & ~found.spaces)
            if len(outside):
                token = found.text[found.starts[outside[0]] : found.ends[outside[0]]]
                raise ChatError(
                    f"the generation blocks of the chat template hold {token!r}, which the model does not generate;"
                    " put only the assistant's turns between {% generation %} and {% endgeneration %}"
                )

    @cached_property
    def has_blocks(self) -> bool:
        """Whether the template has generation blocks."""
        return re.search(r"\{%[-+]?\s*generation\s*[-+]?%\}", self._template.source) is not None

    @cached_property
    def _special(self) -> set[str]:
        """Tokens that control a model."""
        decoder = self._tokenizer.added_tokens_decoder
        return {str(token) for token in decoder.values() if token.special}

    @cached_property
    def _control_ids(self) -> set[int]:
        """Ids of tokens that may end a turn: those that no text of a message gives."""
        own = set(self._tokenizer.added_tokens_decoder)
        return own | ({self._tokenizer.eos_token_id} - {None})

    @cached_property
    def _control(self) -> re.Pattern[str] | None:
        """Tokens that the text of a message may not have. Tags such as <think> are none: models write them."""
        return any_of(sorted(self._special | self._of_turns))

    @cached_property
    def _of_turns(self) -> set[str]:
        """Tokens around a user's turn, which some tokenizers do not call special."""
        added = {str(token) for token in self._tokenizer.added_tokens_decoder.values()} - self._special
        if not added:
            return set()
        try:
            probe = self._renderer.render([{"role": "user", "content": PROBE}], None).marked.text
        except RenderError:
            return set()
        return {each for each in added if each in probe and not each.isspace() and each != PROBE}

    @cached_property
    def _backend(self) -> Any:
        return _backend_of(self._tokenizer)

    @cached_property
    def _plain_backend(self) -> Any:
        return _backend_of(self._tokenizer, added=False)

    def _tokenized(self, rendered: Rendered) -> "_Tokenized":
        """Without the tokens that the tokenizer itself would add: the template writes them."""
        text, pieces, at = rendered.marked.text, [], 0
        for start, end in rendered.marked.plain:
            pieces += [(at, start, False), (start, end, True)]
            at = end
        pieces.append((at, len(text), False))
        found = [self._piece(text, *piece) for piece in pieces if piece[1] > piece[0] or len(pieces) == 1]
        return _Tokenized(text, *(np.concatenate(each) for each in zip(*found, strict=True)))

    def _piece(self, text: str, start: int, end: int, plain: bool) -> tuple[Ints, Ints, Ints, Bools]:
        """A part of the text; behind a line break, so that no tokenizer takes it for the begin of a text."""
        backend, part = self._plain_backend if plain else self._backend, text[start:end]
        lead = 1 if start else 0
        found = backend.encode("\n" * lead + part, add_special_tokens=False)
        if lead and any(begin < lead < stop for begin, stop in found.offsets):
            lead, found = 0, backend.encode(part, add_special_tokens=False)
        kept = [place for place, (_, stop) in enumerate(found.offsets) if stop > lead or not lead]
        ids = np.asarray(found.ids, dtype=np.int64)[kept]
        offsets = np.asarray(found.offsets, dtype=np.int64).reshape(-1, 2)[kept] - lead + start
        if plain and (token := self._tokenizer.convert_tokens_to_ids(part)) is not None and token in ids:
            raise ChatError(
                f"a message has the control token {part!r}, and this tokenizer has no other tokens for it; remove it"
            )
        return ids, offsets[:, 0], offsets[:, 1], np.full(len(ids), plain)


@dataclass(frozen=True)
class _Tokenized:
    text: str
    ids: Ints
    starts: Ints
    ends: Ints
    plain: Bools

    def within(self, spans: tuple[Span, ...]) -> Bools:
        """The tokens that have a character in one of the spans."""
        found = np.zeros(len(self.ids), dtype=np.bool_)
        for start, end in spans:
            found |= (self.starts < end) & (self.ends > start) & (self.ends > self.starts)
        return found

    @property
    def spaces(self) -> Bools:
        """The tokens of white space."""
        return np.asarray(
            [
                self.text[start:end].isspace() or start == end
                for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True)
            ],
            dtype=np.bool_,
        )

    def tokens_of(self, span: Span) -> Span:
        """The first token of a span, and the one behind its last."""
        places = np.flatnonzero(self.within((span,)))
        return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)

    def splits(self, place: int) -> bool:
        """Whether a token has characters on both sides of a place."""
        return bool(((self.starts < place) & (self.ends > place)).any())


def _backend_of(tokenizer: Any, *, added: bool = True) -> Any:
    """A copy that gives every token's characters untrimmed; without the `added` tokens it finds none in a text."""
    from tokenizers import Tokenizer

    written = json.loads(tokenizer.backend_tokenizer.to_str())
    written |= {"post_processor": None, "truncation": None, "padding": None}
    if not added:
        written["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(written))


def _omitted(chat: Conversation, rendered: Rendered, turns: list[int]) -> tuple[int, ...]:
    """Messages of which the text has not what they say; thoughts count for trained turns."""
    text, missing = rendered.marked.text, []
    for place, message in enumerate(chat.messages):
        said = [message.get("content", "")]
        said += [message[REASONING[0]]] if place in turns and REASONING[0] in message else []
        if message["role"] != "tool" and any(_bare(each) not in text for each in said):
            missing.append(place)
    return tuple(missing)


def _bare(said: str) -> str:
    """What is left of a text once thoughts between tags are taken out, as templates write them anew."""
    return re.sub(r"^\s*<think>.*?</think>", "", said, flags=re.DOTALL).strip()
