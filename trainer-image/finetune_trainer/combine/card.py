"""The model card of a combination. Pure."""

from finetune_api.combine import CombineConfig, CombineRule
from finetune_api.run import RunReport
from finetune_api.status import Metrics, Published
from finetune_trainer.combine.combiners import STUDENT_RECORD
from finetune_trainer.combine.comparison import missing, sentence
from finetune_trainer.combine.members import Member
from finetune_trainer.combine.scoring import Scored
from finetune_trainer.publishing.card import format_versions, front_matter, table
from finetune_trainer.publishing.snippets import snippet
from finetune_trainer.training.bootstrap import RESAMPLES

HOW = {
    CombineRule.AVERAGE_PROBABILITIES: "the label with the highest mean probability wins",
    CombineRule.VOTE: "the label with the most votes wins, ties go to the more probable one",
    CombineRule.AVERAGE_PREDICTIONS: "the prediction is the mean of their predictions",
    CombineRule.GREEDY_SOUP: "one model with the mean of the weights of those that did not make it worse, a greedy soup"
    " (Wortsman et al. 2022)",
    CombineRule.AVERAGE_WEIGHTS: "one model with the mean of their weights, a model soup (Wortsman et al. 2022)",
    CombineRule.DISTIL: "one model that was trained on the mean of their outputs (Hinton et al. 2015);"
    f" `{STUDENT_RECORD}` says how",
}


def card(config: CombineConfig, members: list[Member], scored: Scored, report: RunReport) -> str:
    """Markdown with the front matter that model hubs read."""
    model, found = report.model, scored.comparison
    assert model is not None
    kind = config.objective.kind
    max_length = report.effective.max_length if report.effective else None
    combination = found.published is Published.COMBINATION
    student = config.combine is CombineRule.DISTIL
    base = None if combination and not student else model.base_model
    tags = (("distillation",) if student else ("ensemble",)) if combination else ()
    lines = [
        *front_matter(config.job.name, kind, _own(model.metrics), _rows(config), base=base, tags=tags),
        "",
        f"# {config.job.name}",
        "",
        _what(config, members, scored),
        "",
        "## Use",
        "",
        snippet(model.format, config.objective, config.dataset, max_length=max_length, chat=_chat(members)),
        "",
        "## Results",
        "",
        f"{sentence(found)}.",
        *([f"{missing(config, len(config.missing))}."] if config.missing else []),
        "",
        *_results(members, scored, "student" if student else "together"),
        "",
        "`eval_` is measured on the validation rows, `test_` on the test rows; all on the same rows. Each value"
        " of **best member** is the best by that metric on these rows, so it is optimistic. The interval is from"
        f" {RESAMPLES:,} bootstrap resamples of the rows.",
        "",
        *(["![learning curve](learning-curve.png)", ""] if combination and student else []),
        f"Versions: {format_versions()}."
        f"{' `ensemble.json` has the members with their digests,' if combination else ''}"
        " `run.json` has the whole configuration; `sha256sum -c SHA256SUMS` checks the files.",
        "",
    ]
    return "\n".join(lines)


def _what(config: CombineConfig, members: list[Member], scored: Scored) -> str:
    kind, found = config.objective.kind.replace("_", " "), scored.comparison
    if found.published is Published.COMBINATION:
        return f"{found.used} models for {kind}: {HOW[config.combine]}."
    assert scored.best is not None
    return (
        f"The best of {found.members} models for {kind}, `{members[scored.best].name}`:"
        f" {found.combine} was not better, so this member was published (`publish: IfBetter`)."
    )


def _own(metrics: Metrics) -> Metrics:
    """Those of the published model, without its members'."""
    return {name: value for name, value in metrics.items() if not name.endswith("_member")}


def _rows(config: CombineConfig) -> str | None:
    rows = config.dataset.train if config.dataset.split else config.dataset.validation
    return rows.uri if rows else None


def _results(members: list[Member], scored: Scored, combined: str) -> list[str]:
    names, rows = list(scored.members[0]), []
    for number, (member, found) in enumerate(zip(members, scored.members, strict=True)):
        unused = "" if number in scored.combiner.used else " (not in the soup)"
        rows.append([f"`{member.name}`{unused}", *(_cell(found.get(name)) for name in names)])
    for title, suffix in (("mean member", "_mean_member"), ("best member", "_best_member"), (combined, "")):
        rows.append([f"**{title}**", *(_cell(scored.metrics.get(f"{name}{suffix}")) for name in names)])
    return table(["model", *names], rows)


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _chat(members: list[Member]) -> bool:
    """Whether the members learned conversations."""
    trained = (member.training.resolved.train for member in members)
    return any(rows is not None and rows.read_as is not None for rows in trained)
