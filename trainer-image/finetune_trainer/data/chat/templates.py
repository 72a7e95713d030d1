"""Chat templates: the tokenizer's own, one that is built in, or one from a file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.objective import CausalLMSpec
from finetune_api.run import FaultPlace
from finetune_api.uris import BUILT_IN_TEMPLATES
from finetune_trainer.errors import ConfigurationError, NotFoundError, input_errors

FIELD = "objective.causalLM.chatTemplate"
TOKENIZER_FIELD = "model.tokenizer.uri"
CHATML = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' %}
{%- generation %}{{- message.content + '<|im_end|>' }}{%- endgeneration %}
{%- else %}
{{- message.content + '<|im_end|>' }}
{%- endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
PLAIN = """\
{%- if bos_token is defined and bos_token %}{{- bos_token }}{%- endif %}
{%- for message in messages %}
{{- message.role | capitalize + ':' }}
{%- if message.role == 'assistant' %}
{%- generation %}{{- ' ' + message.content + eos_token }}{%- endgeneration %}
{%- else %}
{{- ' ' + message.content }}
{%- endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- 'Assistant:' }}{%- endif %}"""
BUILT_IN = dict(zip(BUILT_IN_TEMPLATES, (CHATML, PLAIN), strict=True))
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")


@dataclass(frozen=True)
class ChatTemplate:
    """The source of a template, and whose it is."""

    source: str
    field: str
    """The field that gives it, for messages."""
    name: str = ""
    """Of one that is built in."""
    uri: str = ""
    """Of one from a file."""
    fixed: bool = False
    """No field gives another one, as none does for preferences."""

    @property
    def described(self) -> str:
        """As the end of 'the chat template …'."""
        if self.name:
            return self.name
        return "of the tokenizer" if self.field == TOKENIZER_FIELD else self.uri

    @property
    def remedy(self) -> str:
        """What to do about a template that cannot be used, as the end of a sentence."""
        if self.fixed:
            return f"take a tokenizer with another template by {TOKENIZER_FIELD}"
        if self.field == TOKENIZER_FIELD:
            return f"set {FIELD} to another template"
        return f"{'fix the template, or ' if self.uri else ''}use another {FIELD}"

    def control_words(self, words: list[str]) -> list[str]:
        """Those of the words that the template writes, such as the end of a turn."""
        return [word for word in words if word in self.source]


def template_of(tokenizer: Any, options: CausalLMSpec | None, path: str | None) -> ChatTemplate:
    """The template of a run; without options the tokenizer's own.

    Raises ConfigurationError where there is none, NotFoundError for a file.
    """
    asked = options.chat_template if options else None
    if asked in BUILT_IN:
        return ChatTemplate(BUILT_IN[asked], FIELD, asked)
    if asked is not None:
        return ChatTemplate(_read(asked, path), FIELD, uri=asked)
    own = tokenizer.chat_template
    if isinstance(own, dict):
        own = own.get("default")
    if not own and options is None:
        raise ConfigurationError(
            "the tokenizer has no chat template, which writes messages as text: take the tokenizer of a chat model"
            f" with {TOKENIZER_FIELD}, or write prompt, chosen and rejected as texts",
            FaultPlace(field=TOKENIZER_FIELD),
        )
    if not own:
        raise ConfigurationError(
            "the tokenizer has no chat template, which writes conversations as text: set"
            f" {FIELD} to one of {' or '.join(BUILT_IN)} or to the URI of a template, or take the tokenizer of a chat"
            " model with model.tokenizer.uri; to learn plain texts, set dataset.rows: Text and name dataset.columns",
            FaultPlace(field=FIELD),
        )
    return ChatTemplate(str(own), TOKENIZER_FIELD, fixed=options is None)


def _read(uri: str, path: str | None) -> str:
    if path is None:
        raise ConfigurationError(
            f"{FIELD}: {uri} has no path here; set dataset.chatTemplatePath to the file",
            FaultPlace(field=FIELD),
        )
    with input_errors(uri, FIELD):
        written = Path(path).read_bytes()
    try:
        return written.decode()
    except UnicodeDecodeError as error:
        raise NotFoundError(f"{FIELD}: {uri} is not UTF-8 text", FaultPlace(field=FIELD, file=uri)) from error


def check_tokens(template: ChatTemplate, tokenizer: Any) -> None:
    """Raise ConfigurationError where a template that is built in writes tokens that the tokenizer does not have."""
    known = set(tokenizer.added_tokens_encoder)
    if template.name == "ChatML" and not known.issuperset(CHATML_TOKENS):
        words = ", ".join(f'"{word}"' for word in CHATML_TOKENS if word not in known)
        raise ConfigurationError(
            f"{FIELD}: ChatML marks turns by tokens that this tokenizer does not have; set model.tokenizer.addTokens:"
            f" [{words}], which are then learned, or set chatTemplate: Plain, which needs no new token",
            FaultPlace(field=FIELD),
        )
    if template.name == "Plain" and tokenizer.eos_token is None:
        raise ConfigurationError(
            f"{FIELD}: Plain ends a turn by the tokenizer's end token, and it has none; use another template",
            FaultPlace(field=FIELD),
        )
