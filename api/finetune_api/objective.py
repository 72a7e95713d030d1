"""`spec.objective`: what the model learns. A new objective is a class here and one member of `ObjectiveSpec`."""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from finetune_api.base import ApiModel, OneOf, Rule, Unique
from finetune_api.dataset import Packing, RowFormat
from finetune_api.uris import TemplateRef

Label = Annotated[str, Field(min_length=1, max_length=128)]


class ClassWeights(StrEnum):
    """How classes are weighted in the loss."""

    NONE = "None"
    BALANCED = "Balanced"


class RegressionLoss(StrEnum):
    """Loss function of regression."""

    SQUARED = "Squared"
    HUBER = "Huber"


def _labels_keep_their_order() -> Rule:
    return Rule(
        # sets are equal in any order, so the rule on spec.objective lets a new order pass; map() makes lists of them
        "!has(self.labels) || !has(oldSelf.labels) || self.labels.map(l, l) == oldSelf.labels.map(l, l)",
        "the order of labels defines their ids and cannot be changed after creation; create a new FineTuneJob under"
        " another name",
    )


Labels = Annotated[list[Label], Field(min_length=2, max_length=1000), Unique()]


class ClassificationSpec(ApiModel):
    """Text classification: one label per text, or with multiLabel any number of labels. Trained with cross-entropy."""

    rules = (
        _labels_keep_their_order(),
        Rule(
            "!(has(self.multiLabel) && self.multiLabel) || !has(self.labelSmoothing) || self.labelSmoothing == 0.0",
            "labelSmoothing is for one label per text; remove it, or remove multiLabel",
            lambda s: not s.multi_label or s.label_smoothing == 0,
            ".labelSmoothing",
        ),
    )
    labels: Labels | None = None
    """Labels in the order of their ids, for example [neg, pos]. A row with any other label is invalid. Default: the class names in the schema of Parquet or Arrow data, else the labels found in the training data, sorted."""
    class_weights: ClassWeights = ClassWeights.NONE
    """Balanced weights each class by the inverse of its frequency, as scikit-learn does. With multiLabel, texts that have a label are weighted by (texts without it) / (texts with it)."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Label smoothing: share of the target probability that is spread over all labels (Szegedy et al. 2016). For example 0.1."""
    multi_label: bool = False
    """Multi-label classification: each text has a list of any number of labels, and each label is predicted independently (binary cross-entropy)."""


class RegressionSpec(ApiModel):
    """Regression: one or several numbers per text."""

    targets: Annotated[int, Field(ge=1, le=1000)] = 1
    """Number of values to predict per text. With 2 or more, the label column holds a list of numbers."""
    loss: RegressionLoss = RegressionLoss.SQUARED
    """Loss function. Squared is the mean squared error. Huber (1964) is squared up to an error of 1 and linear beyond, so outliers have less influence."""
    normalize: bool = False
    """Normalise the targets to mean 0 and standard deviation 1, measured on the training rows. Losses are in normalised units; metrics and the published model's predictions are in original units. Requires a last layer with a bias, which the heads of GPT-2 and Llama lack; model.head has one."""


class TokenClassificationSpec(ApiModel):
    """Token classification: one label per word, such as named-entity recognition. Trained with cross-entropy on the first token of each word."""

    rules = (_labels_keep_their_order(),)
    labels: Labels | None = None
    """Labels in the order of their ids, for example [O, B-PER, I-PER]. Default: the class names in the schema of Parquet or Arrow data, else the labels found in the training data, sorted."""
    class_weights: ClassWeights = ClassWeights.NONE
    """Balanced weights each class by the inverse of its frequency."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Label smoothing: share of the target probability that is spread over all labels. For example 0.1."""


class TrainedTurns(StrEnum):
    """Which turns of a conversation are learned."""

    ASSISTANT = "Assistant"
    LAST_TURN = "LastTurn"
    ALL = "All"


class CausalLMSpec(ApiModel):
    """Causal language modelling: predict the next token of a text, or of the assistant's turns in a conversation."""

    mask_prompt: bool = True
    """Compute the loss on the text only, not on the prompt before it (dataset.columns.prompt). For dataset.rows: Text."""
    train: TrainedTurns | None = None
    """Conversations only: on which tokens the loss is computed. Assistant: every turn of the assistant with the token that ends it, except messages with train: false. LastTurn: the last one of these, as templates of reasoning models require, which drop earlier thoughts. All: every token, prompts and roles too, except messages with train: false. Default: Assistant."""
    chat_template: TemplateRef | None = None
    """Conversations only: the Jinja template that writes a conversation as one text, in place of the tokenizer's. ChatML or Plain, which are built in, or the URI of a file: pvc://CLAIM/PATH or configMap://NAME/KEY. ChatML needs the tokens <|im_start|> and <|im_end|>; Plain needs the tokenizer's end token only. The published tokenizer has the template."""


class PreferenceLoss(StrEnum):
    """Loss function of preference tuning."""

    DPO = "DPO"
    IPO = "IPO"
    SIMPO = "SimPO"
    KTO = "KTO"
    ORPO = "ORPO"

    @property
    def paired(self) -> bool:
        """Whether a row has a chosen and a rejected answer, and not one answer with a label."""
        return self is not PreferenceLoss.KTO

    @property
    def needs_reference(self) -> bool:
        """Whether the model is compared with the one that training starts from."""
        return self in (PreferenceLoss.DPO, PreferenceLoss.IPO, PreferenceLoss.KTO)


BETAS = {PreferenceLoss.SIMPO: 2.0}
"""Default values of beta where they are not 0.1."""


class PreferenceSpec(ApiModel):
    """Preference tuning: make preferred answers to a prompt more probable than others. Trains a causal language model."""

    rules = (
        Rule(
            "!has(self.labelSmoothing) || self.labelSmoothing == 0.0 || !has(self.loss) || self.loss == 'DPO'",
            "labelSmoothing is for loss: DPO; remove it",
            lambda s: s.label_smoothing == 0 or s.loss is PreferenceLoss.DPO,
            ".labelSmoothing",
        ),
        Rule(
            "!has(self.sftWeight) || self.sftWeight == 0.0 || !has(self.loss) || !(self.loss in ['KTO', 'ORPO'])",
            "sftWeight is for pairs: KTO has none, and ORPO always learns the chosen answers; remove it",
            lambda s: s.sft_weight == 0 or s.loss not in (PreferenceLoss.KTO, PreferenceLoss.ORPO),
            ".sftWeight",
        ),
        Rule(
            "!has(self.margin) || (has(self.loss) && self.loss == 'SimPO')",
            "margin is for loss: SimPO; remove it",
            lambda s: s.margin is None or s.loss is PreferenceLoss.SIMPO,
            ".margin",
        ),
    )
    loss: PreferenceLoss = PreferenceLoss.DPO
    """Loss function. DPO (Rafailov et al. 2023) and IPO (Azar et al. 2023) compare with the model before training. SimPO (Meng et al. 2024) and ORPO (Hong et al. 2024) need no comparison. KTO (Ethayarajh et al. 2024) takes single answers with a label, true or false, in place of pairs."""
    beta: Annotated[float, Field(gt=0, le=100)] | None = None
    """How strongly the model is held to the one before training (DPO, IPO, KTO), the scale of the rewards (SimPO), or the weight of the odds ratio (ORPO). Default: 2 for SimPO, otherwise 0.1."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """DPO only: share of the pairs that are assumed to have their answers the wrong way round (conservative DPO). For example 0.1."""
    sft_weight: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Weight of the cross-entropy per token of the chosen answer, which is added to the loss, so that it does not become less probable. For example 0.2. For DPO, IPO and SimPO."""
    margin: Annotated[float, Field(ge=0, le=100)] | None = None
    """SimPO only: by how much the reward of the chosen answer is to exceed that of the rejected one. Default: half of beta."""

    @property
    def resolved_beta(self) -> float:
        """As given, or the default of the loss."""
        return self.beta if self.beta is not None else BETAS.get(self.loss, 0.1)

    @property
    def resolved_margin(self) -> float:
        """As given, or half of beta, as the paper recommends."""
        return self.margin if self.margin is not None else self.resolved_beta / 2


class ObjectiveSpec(OneOf):
    """What the model learns. Set exactly one member."""

    classification: ClassificationSpec | None = None
    """Text classification: one or several labels per text. For example {labels: [neg, pos]}, or {} to take the labels from the training data."""
    regression: RegressionSpec | None = None
    """Regression: one or several numbers per text. Write {} for one number and mean squared error."""
    token_classification: TokenClassificationSpec | None = None
    """Token classification: one label per word, such as named-entity recognition. Write {} to take the labels from the training data."""
    causal_lm: Annotated[CausalLMSpec | None, Field(alias="causalLM")] = None
    """Causal language modelling (next-token prediction), including instruction tuning. Write {} for the defaults."""
    preference: PreferenceSpec | None = None
    """Preference tuning of a causal language model with chosen and rejected answers, such as DPO. Write {} for the defaults."""

    @property
    def kind(self) -> str:
        """The name of the member that is set."""
        (name,) = self.chosen
        return name


def only_for(
    objectives: tuple[str, ...], field: str, cel: str, chosen: Callable[[Any], bool], message: str
) -> Rule:
    """A rule for a setting that applies to some objectives only; `cel` and `chosen` detect the setting."""
    fitting = " || ".join(f"has(objective.{ObjectiveSpec.model_fields[name].alias})" for name in objectives)
    return Rule(
        f"{fitting} || !({cel})",
        message,
        lambda s: (
            s.objective is None
            or s.objective.kind in objectives
            or s.dataset is None
            or not chosen(s.dataset)
        ),
        field,
        needs=("objective", "dataset"),
    )


def only_for_language_models(root: str = "") -> tuple[Rule, ...]:
    """Rules for the dataset's settings that apply to language models only; messages prefix field names with `root`."""
    return (
        only_for(
            ("causal_lm", "preference"),
            ".dataset.columns.prompt",
            "has(dataset.columns) && has(dataset.columns.prompt)",
            lambda dataset: dataset.columns.prompt is not None,
            f"{root}dataset.columns.prompt is for objective.causalLM and preference; for a second text use"
            " columns.textPair",
        ),
        only_for(
            ("causal_lm", "preference"),
            ".dataset.columns.label",
            "has(dataset.columns) && self.dataset.columns.text == self.dataset.columns.label",
            lambda dataset: dataset.columns.text == dataset.columns.label,
            f"{root}dataset.columns: text and label must be different columns; the label would be read from the text",
        ),
        only_for(
            ("causal_lm",),
            ".dataset.preprocessing.packing",
            "has(dataset.preprocessing) && has(dataset.preprocessing.packing)"
            " && dataset.preprocessing.packing == 'Always'",
            lambda dataset: dataset.preprocessing.packing is Packing.ALWAYS,
            f"{root}dataset.preprocessing.packing is for objective.causalLM; remove it",
        ),
        only_for(
            ("causal_lm",),
            ".dataset.rows",
            "has(dataset.rows) && !(dataset.rows in ['Auto', 'Text'])",
            lambda dataset: dataset.rows is not None and dataset.rows.is_chat,
            f"{root}dataset.rows: conversations are for objective.causalLM; remove it",
        ),
        only_for(
            ("causal_lm",),
            ".dataset.columns",
            "has(dataset.columns) && (has(dataset.columns.messages) || has(dataset.columns.tools))",
            lambda dataset: any((dataset.columns.messages, dataset.columns.tools)),
            f"{root}dataset.columns.messages and tools are for objective.causalLM; remove them",
        ),
        only_for(
            ("causal_lm", "preference"),
            ".dataset.columns.completion",
            "has(dataset.columns) && has(dataset.columns.completion)",
            lambda dataset: dataset.columns.completion is not None,
            f"{root}dataset.columns.completion is for objective.causalLM and preference; remove it",
        ),
        only_for(
            ("preference",),
            ".dataset.columns",
            "has(dataset.columns) && (has(dataset.columns.chosen) || has(dataset.columns.rejected))",
            lambda dataset: any((dataset.columns.chosen, dataset.columns.rejected)),
            f"{root}dataset.columns: chosen and rejected are for objective.preference; remove them",
        ),
        Rule(
            "!has(objective.preference) || !has(dataset.columns) || !has(dataset.columns.textPair)",
            f"{root}dataset.columns.textPair is not for objective.preference, whose rows have a prompt and answers:"
            " use prompt, chosen and rejected, or for KTO prompt, completion and label",
            lambda s: (
                s.objective is None
                or s.objective.preference is None
                or s.dataset is None
                or s.dataset.columns.text_pair is None
            ),
            ".dataset.columns.textPair",
            needs=("objective", "dataset"),
        ),
        Rule(
            "!has(objective.causalLM) || !has(dataset.rows) || dataset.rows != 'Text'"
            " || (!has(objective.causalLM.train) && !has(objective.causalLM.chatTemplate))",
            f"{root}objective.causalLM.train and chatTemplate are for conversations, and {root}dataset.rows is Text;"
            " remove them, or the latter",
            lambda s: not _of_text_rows(s) or (_causal(s).train is None and _causal(s).chat_template is None),
            ".objective.causalLM",
            needs=("objective", "dataset"),
        ),
        Rule(
            "!has(objective.causalLM) || !has(objective.causalLM.maskPrompt) || objective.causalLM.maskPrompt"
            " || !has(dataset.rows) || dataset.rows in ['Auto', 'Text']",
            f"{root}objective.causalLM.maskPrompt is for {root}dataset.rows: Text; to learn the prompts of"
            " conversations too, write train: All",
            lambda s: (
                not s.objective
                or not s.objective.causal_lm
                or s.objective.causal_lm.mask_prompt
                or not s.dataset
                or not s.dataset.rows
                or not s.dataset.rows.is_chat
            ),
            ".objective.causalLM.maskPrompt",
            needs=("objective", "dataset"),
        ),
    )


def _causal(spec: Any) -> CausalLMSpec:
    found: CausalLMSpec = spec.objective.causal_lm
    return found


def _of_text_rows(spec: Any) -> bool:
    """Whether a language model is asked to learn texts."""
    return bool(
        spec.objective and spec.objective.causal_lm and spec.dataset and spec.dataset.rows is RowFormat.TEXT
    )
