"""Tokenizers and chat templates in the shape of the families that models come in, written for these tests."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from finetune_trainer.data.chat.templates import CHATML

TEXTS = [
    "You are a helpful assistant who answers in short sentences.",
    "What is the capital of France? The capital of France is Paris.",
    "And of Italy? It is Rome. How warm is it there today? It is 21 degrees.",
    "user assistant system model tool function name arguments city Rome weather",
]
LLAMA = """\
{{- bos_token }}
{%- for message in messages %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
{%- if message.role == 'assistant' %}
{%- generation %}{{- message['content'] | trim + '<|eot_id|>' }}{%- endgeneration %}
{%- else %}{{- message['content'] | trim + '<|eot_id|>' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"""
GEMMA = """\
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}{{- raise_exception('System role not supported') }}{%- endif %}
{%- for message in messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('Roles must alternate') }}
{%- endif %}
{{- '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' }}
{%- if message.role == 'assistant' %}
{%- generation %}{{- message['content'] | trim + '<end_of_turn>\\n' }}{%- endgeneration %}
{%- else %}{{- message['content'] | trim + '<end_of_turn>\\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}"""
MISTRAL = """\
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}{% set system, rest = messages[0]['content'], messages[1:] %}
{%- else %}{% set system, rest = '', messages %}{%- endif %}
{%- set asked = rest | selectattr('role', 'equalto', 'user') | list | length %}
{%- set seen = namespace(users=0) %}
{%- for message in rest %}
{%- if message['role'] == 'user' %}{%- set seen.users = seen.users + 1 %}
{%- if seen.users == asked and system %}{{- '[INST] ' + system + '\\n\\n' + message['content'] + '[/INST]' }}
{%- else %}{{- '[INST] ' + message['content'] + '[/INST]' }}{%- endif %}
{%- else %}{%- generation %}{{- ' ' + message['content'] | trim + eos_token }}{%- endgeneration %}{%- endif %}
{%- endfor %}"""
THINKING = """\
{%- set last = namespace(user=-1) %}
{%- for message in messages %}
{%- if message.role == 'user' %}{%- set last.user = loop.index0 %}{%- endif %}{%- endfor %}
{%- for message in messages %}
{%- if message.role == 'assistant' %}
{{- '<|im_start|>assistant\\n' }}
{%- generation %}
{%- if loop.index0 > last.user %}
{{- '<think>\\n' + (message.reasoning_content | default('') | trim) + '\\n</think>\\n\\n' }}{%- endif %}
{{- message.content + '<|im_end|>' }}{%- endgeneration %}{{- '\\n' }}
{%- else %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
TOOLS = """\
{%- if tools %}{{- '<|im_start|>system\\nTools:\\n' }}
{%- for tool in tools %}{{- tool | tojson + '\\n' }}{%- endfor %}{{- '<|im_end|>\\n' }}{%- endif %}
{%- for message in messages %}
{%- if message.role == 'assistant' %}{{- '<|im_start|>assistant\\n' }}
{%- generation %}{%- if message.content %}{{- message.content }}{%- endif %}
{%- for call in message.tool_calls or [] %}
{%- if call.function %}{%- set call = call.function %}{%- endif %}
{{- '<tool_call>\\n{"name": "' + call.name + '", "arguments": ' + call.arguments | tojson + '}\\n</tool_call>' }}
{%- endfor %}{{- '<|im_end|>' }}{%- endgeneration %}{{- '\\n' }}
{%- else %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""


@dataclass(frozen=True)
class Family:
    """A template, the special tokens that it writes, others that it adds, and the tokenizer's first and last."""

    template: str
    special: tuple[str, ...]
    stop: str
    added: tuple[str, ...] = ()
    bos: str | None = None
    eos: str = "<eos>"
    adds_bos: bool = False
    """The tokenizer itself puts its first token before a text, as the template does."""
    system: bool = True


_CHATML = ("<|im_start|>", "<|im_end|>")
FAMILIES = {
    "ChatML": Family(CHATML, _CHATML, "<|im_end|>", eos="<|im_end|>"),
    "Llama-3": Family(
        LLAMA,
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|eot_id|>",
        bos="<|begin_of_text|>",
        eos="<|end_of_text|>",
        adds_bos=True,
    ),
    "Gemma": Family(
        GEMMA,
        ("<start_of_turn>", "<end_of_turn>"),
        "<end_of_turn>",
        bos="<bos>",
        adds_bos=True,
        system=False,
    ),
    "Mistral": Family(
        MISTRAL, ("[INST]", "[/INST]"), "</s>", bos="<s>", eos="</s>", adds_bos=True, system=False
    ),
    "Qwen3-think": Family(THINKING, _CHATML, "<|im_end|>", ("<think>", "</think>"), eos="<|im_end|>"),
    "tools": Family(TOOLS, _CHATML, "<|im_end|>", ("<tool_call>", "</tool_call>"), eos="<|im_end|>"),
}


@cache
def tokenizer(name: str) -> Any:
    """A byte-level BPE tokenizer with the family's tokens and template."""
    return build(FAMILIES[name])


def build(family: Family) -> Any:
    """One that no other test has."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = list(dict.fromkeys(filter(None, [family.eos, family.bos, *family.special])))
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS * 3, trainer)
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in family.added])
    if family.adds_bos and family.bos:
        first = [(family.bos, backend.token_to_id(family.bos))]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=first
        )
    names = {"eos_token": family.eos, **({"bos_token": family.bos} if family.bos else {})}
    made = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    made.chat_template = family.template
    return made
