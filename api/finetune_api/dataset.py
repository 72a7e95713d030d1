"""`spec.dataset`: the rows to train, validate and test on, and how they are prepared."""

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
    CSV = "csv"
    PARQUET = "parquet"
    TEXT = "text"


class Unicode(StrEnum):
    """Unicode normalisation form."""

    NONE = "None"
    NFC = "NFC"
    NFKC = "NFKC"


class Deduplicate(StrEnum):
    """Which repeated rows are dropped."""

    NONE = "None"
    EXACT = "Exact"
    NEAR = "Near"


class Packing(StrEnum):
    """Whether several texts share one sequence."""

    AUTO = "Auto"
    NEVER = "Never"
    ALWAYS = "Always"


class Truncation(StrEnum):
    """The side on which too long texts are cut."""

    RIGHT = "Right"
    LEFT = "Left"


class DataSource(ApiModel):
    """A data file."""

    uri: DataUri
    """The file, for example pvc://data/reviews.jsonl, configMap://tiny/reviews.csv or hf://datasets/stanfordnlp/imdb@main/plain_text/train-00000-of-00001.parquet."""
    format: DataFormat | None = None
    """jsonl (one JSON object a line), csv (with a header), parquet, or text (one text a line, for objective.causalLM). Default: by the file's ending."""


class ValidationSpec(ApiModel):
    """Rows to evaluate on while training: a file of their own, or a share of the training file."""

    rules = (
        Rule(
            "!has(self.uri) || (!has(self.fraction) && !has(self.stratify) && !has(self.groupBy))",
            "give either uri, or fraction with stratify or groupBy, which split the training file",
            lambda s: s.uri is None or (s.fraction is None and s.stratify is None and s.group_by is None),
        ),
        Rule(
            "!has(self.format) || has(self.uri)",
            "format belongs to uri; a share of the training file has the training file's format",
            lambda s: s.format is None or s.uri is not None,
        ),
        Rule(
            "!(has(self.stratify) && self.stratify && has(self.groupBy))",
            "stratify: true cannot be combined with groupBy; leave one of them out",
            lambda s: not (s.stratify and s.group_by),
        ),
    )
    uri: DataUri | None = None
    """A file of its own, for example pvc://data/validation.jsonl."""
    format: DataFormat | None = None
    """jsonl, csv, parquet or text. Default: by the file's ending."""
    fraction: Annotated[float, Field(gt=0, le=0.9)] | None = None
    """Share of the training rows to hold out, for example 0.1, which is also the default."""
    stratify: bool | None = None
    """Keep the labels' proportions in both parts. Default: true for classification without groupBy."""
    group_by: ColumnName | None = None
    """Column whose equal values stay together, so that parts of one document never stand on both sides. For example review_id."""


class ColumnsSpec(ApiModel):
    """Which columns hold what."""

    text: ColumnName = "text"
    """Column with the text; for token classification, with the list of its words."""
    text_pair: ColumnName | None = None
    """Column with a second text, for tasks on pairs such as entailment."""
    label: ColumnName = "label"
    """Column with the label, or with the number to predict; a list of them for several labels, several targets, or the words of token classification."""
    prompt: ColumnName | None = None
    """For objective.causalLM: column with a text that stands before the text to learn, for example prompt."""


class PreprocessingSpec(ApiModel):
    """What is done to every text before it is tokenized, in this order."""

    unicode: Unicode = Unicode.NONE
    """Unicode normalisation: NFC, NFKC or None."""
    strip_markup: bool = False
    """Remove HTML tags and resolve entities."""
    collapse_whitespace: bool = False
    """Turn runs of white space into one space and trim the ends; with columns.prompt the ends keep one, as prompt and text are joined."""
    lowercase: bool = False
    """Lower-case the text. Uncased tokenizers do so by themselves."""
    min_characters: Annotated[int, Field(ge=0, le=1_000_000)] = 1
    """A row whose text is shorter after cleaning is an invalid row."""
    deduplicate: Deduplicate = Deduplicate.NONE
    """Exact drops rows whose cleaned text was seen before, in training before validation and test. Near also drops those that are nearly the same (MinHash over runs of three words, or of three characters in languages without spaces; Jaccard similarity 0.8 or more; 6 KB of memory a row)."""
    max_length: Annotated[int, Field(ge=4, le=131_072)] = 256
    """Longest sequence in tokens; longer ones are cut."""
    truncation: Truncation = Truncation.RIGHT
    """The side on which too long texts are cut."""
    packing: Packing = Packing.AUTO
    """For objective.causalLM: put several texts into one sequence of maxLength, where none sees another, instead of padding. Auto packs on a GPU; on a CPU batches of like length are faster."""


class DatasetSpec(ApiModel):
    """The data, and how it is prepared."""

    train: DataSource
    """Rows to train on."""
    validation: ValidationSpec | None = None
    """Rows to evaluate on while training. Default: a tenth of train is held out."""
    test: DataSource | None = None
    """Rows to evaluate the final model on, once."""
    columns: ColumnsSpec = ColumnsSpec()
    """Which columns hold what."""
    preprocessing: PreprocessingSpec = PreprocessingSpec()
    """How texts are prepared."""
    max_invalid_rows: MaxInvalidRows = "0"
    """How many rows may be unusable: a count such as 10 or a share such as "1%". At 0 the first bad row fails the job with its file and row."""
