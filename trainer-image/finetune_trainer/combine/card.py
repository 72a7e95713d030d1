"""The model card of a combination. Pure."""

from finetune_api.combine import CombineConfig, CombineRule
from finetune_api.run import RunReport
from finetune_api.status import Metrics
from finetune_trainer.combine.members import Member
from finetune_trainer.publishing.card import format_versions, front_matter, table
from finetune_trainer.publishing.snippets import snippet

HOW = {
    CombineRule.AVERAGE_PROBABILITIES: "the label with the highest mean probability wins",
    CombineRule.VOTE: "the label with the most votes wins, ties go to the more probable one",
    CombineRule.AVERAGE_PREDICTIONS: "the prediction is the mean of their predictions",
    CombineRule.AVERAGE_WEIGHTS: "one model with the mean of their weights, a model soup (Wortsman et al. 2022)",
}


def card(config: CombineConfig, members: list[Member], scores: list[Metrics], report: RunReport) -> str:
    """Markdown with the front matter that model hubs read."""
    model = report.model
    assert model is not None
    kind = config.objective.kind
    max_length = report.effective.max_length if report.effective else None
    lines = [
        *front_matter(config.job.name, kind, _own(model.metrics), _rows(config), tags=("ensemble",)),
        "",
        f"# {config.job.name}",
        "",
        f"{len(members)} models for {kind.replace('_', ' ')}: {HOW[config.combine]}.",
        "",
        "## Use",
        "",
        snippet(model.format, config.objective, config.dataset, max_length=max_length),
        "",
        "## Results",
        "",
        *_results(members, scores, model.metrics),
        "",
        "`eval_` is measured on the validation rows, `test_` on the test rows; all on the same rows.",
        "",
        f"Versions: {format_versions()}. `ensemble.json` has the"
        " members with their digests, `run.json` the whole configuration; `sha256sum -c SHA256SUMS` checks the files.",
        "",
    ]
    return "\n".join(lines)


def _own(metrics: Metrics) -> Metrics:
    """Those of the combination, without its members'."""
    return {name: value for name, value in metrics.items() if not name.endswith("_member")}


def _rows(config: CombineConfig) -> str | None:
    return config.dataset.validation.uri if config.dataset.validation else None


def _results(members: list[Member], scores: list[Metrics], metrics: Metrics) -> list[str]:
    names, rows = list(scores[0]), []
    for member, found in zip(members, scores, strict=True):
        rows.append([f"`{member.name}`", *(_cell(found.get(name)) for name in names)])
    for title, suffix in (("mean member", "_mean_member"), ("best member", "_best_member"), ("together", "")):
        rows.append([f"**{title}**", *(_cell(metrics.get(f"{name}{suffix}")) for name in names)])
    return table(["model", *names], rows)


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
