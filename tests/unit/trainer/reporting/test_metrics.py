"""What a run exposes before it has measured anything, and after."""

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from finetune_trainer.reporting.metrics import TrainerMetrics, definitions


def exposed(metrics: TrainerMetrics) -> dict[str, float]:
    page = generate_latest(metrics.registry).decode()
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_a_gauge_is_absent_until_it_is_measured() -> None:
    metrics = TrainerMetrics()
    before = exposed(metrics)
    assert before["finetune_train_steps_total"] == 0
    assert before["finetune_train_memory_bytes"] > 0
    assert "finetune_train_loss" not in before
    assert "finetune_train_checkpoint_last_success_timestamp_seconds" not in before
    metrics.loss.set(0.0)
    assert exposed(metrics)["finetune_train_loss"] == 0


def test_every_definition_is_registered_and_nothing_else() -> None:
    metrics = TrainerMetrics()
    found = {family.name: family for family in metrics.registry.collect()}
    defined = {one.name.removesuffix("_total"): one for one in definitions()}
    assert set(found) == set(defined)
    assert all(
        (family.type, family.documentation) == (defined[name].kind, defined[name].help)
        for name, family in found.items()
    )
