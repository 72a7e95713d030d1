"""The front matter of model cards, as the Hugging Face Hub reads it."""

from huggingface_hub import ModelCard

from finetune_trainer.publishing.card import front_matter


def data_of(*given, **options):
    return ModelCard("\n".join([*front_matter(*given, **options), "", "# a card"])).data


def test_the_hub_reads_the_metrics_of_the_published_model_with_their_splits():
    metrics = {"eval_loss": 0.5, "eval_f1_macro": 0.75, "test_accuracy": 0.8}
    data = data_of("sentiment", "classification", metrics, "hf://datasets/org/reviews@main/train.jsonl")
    found = {(each.metric_type, each.dataset_split): each.metric_value for each in data.eval_results}
    assert found == {("loss", "validation"): 0.5, ("f1_macro", "validation"): 0.75, ("accuracy", "test"): 0.8}
    assert {each.dataset_name for each in data.eval_results} == {"org/reviews"}
    assert {each.task_type for each in data.eval_results} == {"text-classification"}


def test_a_base_model_of_the_hub_is_named_as_there_and_names_survive_yaml():
    data = data_of('no: "quotes" #1', "causal_lm", {}, None, base="hf://org/base@v1", library="peft")
    assert (data.model_name, data.base_model, data.library_name) == ('no: "quotes" #1', "org/base", "peft")
    assert data.tags == ["finetune-operator", "causal_lm"]
    assert not data.eval_results


def test_a_claim_is_named_as_it_is():
    data = data_of("a", "regression", {"eval_mae": 1.0}, "pvc://data/train.jsonl", base="pvc://models/tiny")
    assert data.base_model == "pvc://models/tiny"
    assert data.eval_results[0].dataset_name == "pvc://data/train.jsonl"
