"""`spec.dataset`: rows for training, validation and test, and their preprocessing."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.base import ApiModel, IntOrString, Rule
from finetune_api.uris import DataUri

ColumnName = Annotated[str, Field(min_length=1, max_length=128)]
MaxInvalidRows = Annotated[str, IntOrString(r"^([0-9]{1,18}|(100|[0-9]{1,2})(\.[0-9]{1,3})?%)$")]


class DataFormat(StrEnum):
    """The format of a data file."""

    JSONL = "jsonl"
    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"
    ARROW = "arrow"
    TEXT = "text"


class RowFormat(StrEnum):
    """What the columns of a row hold."""

    AUTO = "Auto"
    TEXT = "Text"
    MESSAGES = "Messages"
    PROMPT_COMPLETION = "PromptCompletion"
    SHAREGPT = "ShareGPT"
    ALPACA = "Alpaca"

    @property
    def is_chat(self) -> bool:
        """Whether a row is a conversation, which a chat template writes."""
        return self not in (RowFormat.AUTO, RowFormat.TEXT)


class Unicode(StrEnum):
    """Unicode normalisation form."""

    NONE = "None"
    NFC = "NFC"
    NFKC = "NFKC"


class Deduplicate(StrEnum):
    """Which duplicate rows are dropped."""

    NONE = "None"
    EXACT = "Exact"
    NEAR = "Near"


class Packing(StrEnum):
    """Whether several texts are packed into one sequence."""

    AUTO = "Auto"
    NEVER = "Never"
    ALWAYS = "Always"


class Truncation(StrEnum):
    """Side on which long texts are truncated. Left keeps the end of a text."""

    RIGHT = "Right"
    LEFT = "Left"


class DataSource(ApiModel):
    """A data file, or several that are read as one."""

    uri: DataUri
    """URI of a file, for example pvc://data/reviews.jsonl, configMap://tiny/reviews.csv or hf://datasets/stanfordnlp/imdb@main/plain_text/train-00000-of-00001.parquet. In the last part of a URI, * stands for any characters and ? for one, for several files: pvc://data/train-*.parquet. They are read in the order of their names and must have the same format and columns. A folder is read if datasets.save_to_disk wrote it, or if all its files have one format."""
    format: DataFormat | None = None
    """File format: jsonl (one JSON object per line), json (one array of objects), csv (with a header), parquet, arrow, or text (one text per line, for objective.causalLM). Default: inferred from the file extension. gzip is recognized, and so is the separator of csv."""


class ValidationSpec(ApiModel):
    """Validation rows, for evaluation during training: a separate file, or a share of the training file."""

    rules = (
        Rule(
            "!has(self.uri) || (!has(self.fraction) && !has(self.stratify) && !has(self.groupBy) && !has(self.seed))",
            "give either uri, or fraction with stratify, groupBy or seed, which split the training file",
            lambda s: (
                s.uri is None
                or not (s.fraction or s.stratify is not None or s.group_by or s.seed is not None)
            ),
        ),
        Rule(
            "!has(self.format) || has(self.uri)",
            "format belongs to uri; a share of the training file has the training file's format; remove format",
            lambda s: s.format is None or s.uri is not None,
        ),
        Rule(
            "!(has(self.stratify) && self.stratify && has(self.groupBy))",
            "stratify: true cannot be combined with groupBy; remove one of them",
            lambda s: not (s.stratify and s.group_by),
        ),
    )
    uri: DataUri | None = None
    """URI of a separate validation file, for example pvc://data/validation.jsonl. Several files or a folder: as for train."""
    format: DataFormat | None = None
    """File format: jsonl, json, csv, parquet, arrow or text. Default: inferred from the file extension."""
    fraction: Annotated[float, Field(gt=0, le=0.9)] | None = None
    """Share of the training rows to hold out for validation, for example 0.1. Default: 0.1."""
    stratify: bool | None = None
    """Stratified split: keep the proportions of the labels in both parts. Default: true for classification without groupBy."""
    group_by: ColumnName | None = None
    """Column to group by: rows with the same value stay on the same side of the split, which prevents leakage between parts of one document. For example review_id."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    """Seed of the split: the same rows are held out for every job with the same data and seed. Default: training.seed."""


def _named(column: str) -> str:
    """The name of a column in CEL, by default that of the field."""
    return f"(has(self.{column}) ? self.{column} : '{column}')"


class ColumnsSpec(ApiModel):
    """Names of the columns in the data files."""

    rules = (
        Rule(
            "!(has(self.textPair) && self.textPair in [self.text, self.label])"
            " && !(has(self.prompt) && self.prompt == self.text && !has(self.completion))"
            " && !(has(self.prompt) && has(self.textPair) && self.prompt == self.textPair)",
            "text, textPair, prompt and label must be different columns; one column cannot be used twice",
            lambda s: (
                s.text_pair not in (s.text, s.label)
                and (
                    s.prompt is None
                    or ((s.prompt != s.text or s.completion is not None) and s.prompt != s.text_pair)
                )
            ),
        ),
        Rule(
            "!(has(self.chosen) || has(self.rejected))"
            f" || ({_named('chosen')} != {_named('rejected')} && {_named('prompt')} != {_named('chosen')}"
            f" && {_named('prompt')} != {_named('rejected')})",
            "prompt, chosen and rejected must be different columns",
            lambda s: (
                not (s.chosen or s.rejected)
                or len({s.prompt or "prompt", s.chosen or "chosen", s.rejected or "rejected"}) == 3
            ),
        ),
        Rule(
            "!has(self.messages) || (!has(self.completion) && !has(self.prompt))",
            "messages hold a whole conversation; remove prompt and completion, or remove messages",
            lambda s: s.messages is None or (s.completion is None and s.prompt is None),
        ),
        Rule(
            "!has(self.completion) || !has(self.prompt) || self.completion != self.prompt",
            "prompt and completion must be different columns",
            lambda s: s.completion is None or s.completion != s.prompt,
        ),
    )
    text: ColumnName = "text"
    """Column with the text. For token classification, the column with the list of words."""
    text_pair: ColumnName | None = None
    """Column with a second text, for sentence-pair tasks such as entailment."""
    label: ColumnName = "label"
    """Column with the label, or with the number to predict. Holds a list for multi-label classification, several regression targets, or token classification."""
    prompt: ColumnName | None = None
    """Column with the prompt, for objective.causalLM and preference. It precedes the text to learn, or the answers. Default: none for causalLM, prompt for preference and for dataset.rows: PromptCompletion."""
    completion: ColumnName | None = None
    """Column with the answer to prompt, for dataset.rows: PromptCompletion, or for objective.preference with loss: KTO. Default: completion."""
    chosen: ColumnName | None = None
    """objective.preference only: column with the preferred answer. Default: chosen."""
    rejected: ColumnName | None = None
    """objective.preference only: column with the answer that is not preferred. Default: rejected."""
    messages: ColumnName | None = None
    """objective.causalLM only: column with the list of messages of a conversation, for dataset.rows: Messages or ShareGPT. Default: messages or conversations."""
    tools: ColumnName | None = None
    """objective.causalLM only: column with the list of tools that the assistant may call in a conversation, as JSON schemas. Default: tools, if a row has it."""


class PreprocessingSpec(ApiModel):
    """Preprocessing of each text before tokenization. The steps run in the order of these fields."""

    unicode: Unicode = Unicode.NONE
    """Unicode normalisation form: NFC, NFKC or None."""
    strip_markup: bool = False
    """Remove HTML tags and decode HTML entities."""
    collapse_whitespace: bool = False
    """Collapse runs of whitespace into one space and trim both ends. With columns.prompt, one space is kept at the ends, because prompt and text are joined."""
    lowercase: bool = False
    """Convert the text to lower case. Uncased tokenizers do this anyway."""
    min_characters: Annotated[int, Field(ge=0, le=1_000_000)] = 1
    """Minimum length of a text in characters, after cleaning. Rows with shorter texts are invalid."""
    deduplicate: Deduplicate = Deduplicate.NONE
    """Deduplication. Exact drops rows whose cleaned text is a duplicate, reading training rows first, then validation and test. Near also drops near-duplicates (MinHash over runs of three words, or of three characters in languages without spaces; Jaccard similarity of 0.8 or more; 4 KB of memory per row)."""
    max_length: Annotated[int, Field(ge=4, le=131_072)] = 256
    """Maximum sequence length in tokens. Longer sequences are truncated."""
    truncation: Truncation = Truncation.RIGHT
    """Side on which long texts are truncated. Left keeps the end of a text."""
    packing: Packing = Packing.AUTO
    """objective.causalLM only: pack several texts into one sequence of maxLength instead of padding. No text attends to another. Auto packs on a GPU; on a CPU, batches of similar length are faster."""


class DatasetSpec(ApiModel):
    """Training, validation and test data, and their preprocessing."""

    train: DataSource
    """Training rows."""
    validation: ValidationSpec | None = None
    """Validation rows, for evaluation during training. Default: a tenth of train is held out."""
    test: DataSource | None = None
    """Test rows. The final model is evaluated on them once."""
    columns: ColumnsSpec = ColumnsSpec()
    """Names of the columns in the data files."""
    rows: RowFormat | None = None
    """objective.causalLM only: what a row holds. Text: a text, with columns.prompt after a prompt. Messages: a list of messages with role and content, and tool calls. PromptCompletion: a question and its answer. ShareGPT: a list of messages with from and value. Alpaca: instruction, input and output. All but Text are conversations, which the tokenizer's chat template writes. Default: Auto, which finds out by the columns: Text where columns.text is one of them; it is logged and in status.resolved."""
    preprocessing: PreprocessingSpec = PreprocessingSpec()
    """Text cleaning, truncation, deduplication and packing."""
    max_invalid_rows: MaxInvalidRows = "0"
    """Maximum number of invalid rows to skip: a count such as 10, or a share such as "1%". With 0, the first invalid row fails the job, and the message names its file and row."""
