"""The Python code that uses a published model. Pure.

They run in the model's folder, and prepare texts as training did.
"""

import json
from typing import Any

from finetune_api.combine import CombineData
from finetune_api.objective import ObjectiveSpec
from finetune_api.run import DatasetInput
from finetune_trainer.data.cleaning import cleaning_options
from finetune_trainer.models.adapters import base_model

PIPELINES = {
    "classification": "text-classification",
    "regression": "text-classification",
    "token_classification": "token-classification",
    "causal_lm": "text-generation",
    "preference": "text-generation",
}
"""Tasks as model hubs name them, by objective."""
WHOLE = """\
import torch
from transformers import {auto_class}, AutoTokenizer

folder = "."  # this folder
tokenizer = AutoTokenizer.from_pretrained(folder)
model = {auto_class}.from_pretrained(folder, dtype=torch.float32)
"""
ADAPTER = """\
import torch
from peft import PeftModel
from transformers import AutoConfig, {auto_class}, AutoTokenizer

folder = "."  # this folder
base = {base}  # the base model: its name on the Hugging Face Hub, or the folder where you have it
tokenizer = AutoTokenizer.from_pretrained(folder)
config = AutoConfig.from_pretrained(folder)  # has the labels; the head is in the adapter
model = {auto_class}.from_pretrained(
    base, config=config, ignore_mismatched_sizes=True, dtype=torch.float32
)
model = PeftModel.from_pretrained(model, folder).eval()
"""
FOUR_BITS = {
    "import AutoConfig,": "import AutoConfig, BitsAndBytesConfig,",
    "model = {auto_class}": """\
four_bits = BitsAndBytesConfig(  # the base as the adapter was trained on it; without it the numbers are others
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
)
model = {auto_class}""",
    "dtype=torch.float32\n": "dtype=torch.float32, quantization_config=four_bits\n",
}
"""What changes where an adapter is loaded onto a base in NF4."""
HEADED = """\
import torch
from custom_head import load  # a file in this folder that needs torch and transformers only

folder = "."  # this folder
model, tokenizer = load(folder)
"""
ENSEMBLE = """\
import torch
from ensemble import load  # a file in this folder that needs torch and transformers only

folder = "."  # this folder
model, tokenizer = load(folder)
"""
LOAD = {"safetensors": WHOLE, "peft": ADAPTER, "custom-head": HEADED, "ensemble": ENSEMBLE}
"""By `status.model.format`."""
CLEANING = """
from preprocessing import cleaner  # a file of this folder: it cleans texts as they were cleaned for training

clean = cleaner({options})
"""
ROWS = """
texts = ["a text to classify"]
{second}inputs = tokenizer({texts}, truncation=True, max_length={max_length}, padding=True, return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs).logits
"""
ONE_LABEL = """\
labels = [model.config.id2label[i] for i in logits.argmax(dim=-1).tolist()]
print(labels)
"""
SEVERAL_LABELS = """\
names = model.config.id2label
labels = [[names[i] for i, share in enumerate(row) if share >= 0.5] for row in logits.sigmoid().tolist()]
print(labels)
"""
ONE_NUMBER = """\
values = logits.squeeze(-1).tolist()
print(values)
"""
SEVERAL_NUMBERS = """\
values = logits.tolist()
print(values)
"""
WORDS = """
words = ["the", "words", "of", "a", "text"]
cleaned = {words}
inputs = tokenizer(
    " ".join(cleaned), truncation=True, max_length={max_length}, return_offsets_mapping=True, return_tensors="pt"
)
spans = inputs.pop("offset_mapping")[0].tolist()
with torch.no_grad():
    ids = model(**inputs).logits[0].argmax(dim=-1).tolist()
word_at = [number for number, word in enumerate(cleaned) for _ in range(len(word) + 1)]  # by character
labels = {{}}  # of each word's first token; a word that was cut on the left has none
for (start, end), i in zip(spans, ids):
    if end > start and (labels or start <= word_at.index(word_at[end - 1])):
        labels.setdefault(word_at[end - 1], model.config.id2label[i])
print([(words[number], label) for number, label in labels.items()])
"""
NEXT_TOKENS = """
text = "the beginning of a text"
inputs = tokenizer({text}, return_tensors="pt")
with torch.no_grad():
    tokens = model.generate(**inputs, max_new_tokens=20, do_sample=False)
print(tokenizer.decode(tokens[0], skip_special_tokens=True))
"""
CHAT = """
from transformers import GenerationConfig

messages = [{{"role": "user", "content": {content}}}]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
)
settings = GenerationConfig.from_pretrained(folder)  # has the tokens that end a turn
with torch.no_grad():
    tokens = model.generate(**inputs, generation_config=settings, max_new_tokens=256, do_sample=False)
print(tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
"""


def snippet(
    form: str,
    objective: ObjectiveSpec,
    dataset: DatasetInput | CombineData,
    base: str = "",
    max_length: int | None = None,
    *,
    chat: bool = False,
    four_bits: bool = False,
) -> str:
    """A block of Markdown, for a model of this format.

    `base` is the URI of the model below an adapter, `max_length` the length in tokens that texts were truncated to.
    `chat`: the rows were conversations. `four_bits`: the adapter was trained on a base in NF4.
    """
    auto_class, lines = {
        "token_classification": ("AutoModelForTokenClassification", WORDS),
        "causal_lm": ("AutoModelForCausalLM", CHAT if chat else NEXT_TOKENS),
        "preference": ("AutoModelForCausalLM", NEXT_TOKENS),
    }.get(objective.kind, ("AutoModelForSequenceClassification", ROWS + _last(objective)))
    options = _options(objective, dataset, chat=chat)
    paired, cleaning = bool(dataset.columns.text_pair), CLEANING if options else ""
    loading = LOAD[form]
    for old, new in FOUR_BITS.items() if form == "peft" and four_bits else ():
        loading = loading.replace(old, new)
    text = (loading + cleaning + lines).format(
        base=json.dumps(base_model(base)[0]),
        auto_class=auto_class,
        second='pairs = ["a second text for each"]\n' if paired else "",
        texts=", ".join(_cleaned(name, cleaning) for name in (["texts", "pairs"] if paired else ["texts"])),
        words=_cleaned("words", cleaning),
        text="clean(text)" if cleaning else "text",
        content='clean("a question")' if cleaning else '"a question"',
        max_length=max_length or dataset.preprocessing.max_length,
        options=", ".join(f"{name}={_python(value)}" for name, value in options.items()),
    )
    return f"```python\n{text}```"


def _options(objective: ObjectiveSpec, dataset: DatasetInput | CombineData, *, chat: bool) -> dict[str, Any]:
    """Those of the cleaner."""
    options = cleaning_options(dataset.preprocessing)
    joined = bool(objective.preference or (objective.causal_lm and dataset.columns.prompt and not chat))
    return options | {"joined": True} if options and joined else options


def _python(value: object) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _cleaned(name: str, cleaning: str) -> str:
    return f"[clean(each) for each in {name}]" if cleaning else name


def _last(objective: ObjectiveSpec) -> str:
    if objective.classification:
        return SEVERAL_LABELS if objective.classification.multi_label else ONE_LABEL
    return SEVERAL_NUMBERS if objective.regression and objective.regression.targets > 1 else ONE_NUMBER
