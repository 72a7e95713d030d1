"""`finetune validate` says of every file what the API server would say, and never that nothing is valid."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from finetune_cli.main import app
from finetune_sdk.wrong_values import SHAPES
from unit.api.schemas import crd_schema, nodes

ROOT = Path(__file__).resolve().parents[3]
GOOD = (ROOT / "examples" / "quickstart.yaml").read_text()


def validated(file: Path, text: str | bytes) -> tuple[int, str]:
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    result = CliRunner().invoke(app, ["validate", str(file)])
    return result.exit_code, result.output


@pytest.mark.parametrize("text", [GOOD, f"kind: Service\n---\n{GOOD}"], ids=["alone", "beside a Service"])
def test_a_valid_job_is_valid(tmp_path: Path, text: str) -> None:
    assert validated(tmp_path / "job.yaml", text) == (0, "1 file(s) are valid\n")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (GOOD.replace("epochs: 2", "epochs: 0"), "spec.training.epochs: Input should be greater than"),
        (
            GOOD.replace("epochs:", "epoch:"),
            "spec.training.epoch: unknown field; did you mean spec.training.epochs?",
        ),
        (GOOD.replace("epochs: 2", "epochs: '2'"), "a valid integer, not the text '2'; remove the quotes"),
        (GOOD.replace("epochs: 2", "epochs: 2%"), "a valid integer, not the text '2%'\n"),
        (
            GOOD.replace("classification:", "classification: {labels: [no, yes]}\n    x:"),
            "not false: YAML reads",
        ),
        (
            GOOD.replace("  training:", "  gate: {metric: Accuracy, min: 0}\n  training:"),
            "did you mean accuracy?",
        ),
        (
            GOOD.replace("  training:", "  training:\n    evaluation: {metrics: accuracy}"),
            "spec.training.evaluation.metrics: Input should be a valid array; write it in brackets: [accuracy]",
        ),
        (GOOD.replace("classification:", "wish:"), "spec.objective.wish: unknown field\n"),
        (GOOD.replace("movie-sentiment", "Movie"), "metadata.name must have at most 40 characters"),
        (GOOD.replace("kind: FineTuneJob", "kind: FinetuneJob"), "kind: write FineTuneJob"),
        (GOOD.replace("v1alpha1", "v1"), "apiVersion: write finetune.dev/v1alpha1"),
        (f"{GOOD}\n---\n{GOOD.replace('epochs: 2', 'epochs: 0')}", "(document 2): spec.training.epochs"),
        (GOOD.replace("metadata:\n  name: movie-sentiment", "metadata: movie"), "metadata.name must have"),
        (
            f"{GOOD}  search: {{parameters: [{{path: training.batchSise, choice: [1, 2]}}]}}\n",
            "did you mean training.batchSize?",
        ),
        (
            f"{GOOD}  ensemble: {{overrides: [{{training.seed: 1}}, {{training.seed: 1}}]}}\n",
            "trains the same model",
        ),
        (GOOD.split("spec:")[0] + "spec: hello\n", "job.yaml: spec: Input should be an object"),
        (
            "kind: List\nitems:\n- kind: Service\n- kind: FineTuneJob\n",
            "job.yaml (document 2): apiVersion: write finetune.dev/v1alpha1",
        ),
        ("a: 1\na: 2\n", "job.yaml, line 2, column 1: while constructing a mapping, found duplicate key"),
        ("a:\n\t- 1\n", "job.yaml, line 2, column 1: while scanning for the next token, found character"),
        ("kind: Service\n", "no FineTuneJob found"),
        ("", "no FineTuneJob found"),
        ("a: [", "while parsing"),
        ("[" * 5000 + "]" * 5000, "job.yaml: lists or fields are nested too deeply to be read"),
        (b"a: \xff", "job.yaml is not UTF-8 (byte 4); save it as UTF-8"),
        (GOOD.encode("utf-16"), "job.yaml is not UTF-8 (byte 1); save it as UTF-8"),
        (GOOD.replace("epochs: 2", "epochs: {{ .Values.epochs }}"), "; render it first with helm template"),
        (
            f"{GOOD}training: {{epochs: 9}}\n",
            "training: unknown field beside spec; did you mean spec.training?",
        ),
        (f"{GOOD}Spec: {{}}\n", "Spec: unknown field beside spec; did you mean spec?"),
        (f"{GOOD}x-defaults: {{}}\n", "x-defaults: unknown field beside spec; remove it"),
        (
            GOOD.replace("metadata:", "metadata:\n  label: {a: b}"),
            "metadata.label: unknown field; did you mean metadata.labels?",
        ),
        (
            GOOD.replace("metadata:", "metadata:\n  labels: {a: 1}"),
            "metadata.labels.a: a value is a text, not 1; write it in",
        ),
        (
            GOOD.replace("metadata:", "metadata:\n  labels: {a b: c}"),
            "metadata.labels.a b: a name has letters, digits,",
        ),
        (
            GOOD.replace("metadata:", "metadata:\n  labels: {a: b c}"),
            "metadata.labels.a: 'b c' is no value of a label",
        ),
        (GOOD.replace("metadata:", "metadata:\n  labels: [a]"), "metadata.labels: write names with values"),
        (
            GOOD.replace("metadata:", "metadata:\n  annotations: {a: yes}"),
            "annotations.a: a value is a text, not true",
        ),
        (
            GOOD.replace("metadata:", "metadata:\n  namespace: Team_A"),
            "metadata.namespace: 'Team_A' is no name of a",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, text: str | bytes, told: str) -> None:
    code, output = validated(tmp_path / "job.yaml", text)
    assert code == 1
    assert told in output
    assert "Traceback" not in output


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["validate", str(tmp_path / "none.yaml")])
    assert result.exit_code == 1
    assert "none.yaml" in result.output


def test_a_label_of_kueue_that_no_pod_would_have_is_refused(tmp_path: Path) -> None:
    labelled = GOOD.replace("metadata:", "metadata:\n  labels: {kueue.x-k8s.io/queue-name: team-a}")
    code, output = validated(tmp_path / "job.yaml", labelled)
    assert code == 1
    assert (
        "has no effect, and its pods would run past the queue; write spec.scheduling.queue: team-a" in output
    )
    assert validated(tmp_path / "job.yaml", f"{labelled}  scheduling: {{queue: team-a}}\n")[0] == 0


def test_what_kueue_would_not_read_is_said_with_all_else(tmp_path: Path) -> None:
    """A label that needs a queue, and an annotation that a pod of a Job has."""
    marked = GOOD.replace(
        "metadata:",
        "metadata:\n  labels: {kueue.x-k8s.io/priority-class: urgent}"
        "\n  annotations: {kueue.x-k8s.io/podset-preferred-topology: rack}",
    )
    code, output = validated(tmp_path / "job.yaml", marked)
    assert code == 1
    assert "kueue.x-k8s.io/priority-class has no effect without a queue" in " ".join(output.split())
    assert "podset-preferred-topology has no effect on a FineTuneJob" in " ".join(output.split())


@pytest.mark.parametrize(
    ("field", "value", "answer"),
    [
        ("model", "bert-base-uncased", "write for example {uri: ...}"),
        ("model", "{uri: pvc://a/b, weights: 4bit}", "did you mean NF4?"),
        ("objective", "classification", "write for example {classification: {}}"),
        ("training", "{optimizer: adamw_torch}", "write for example {name: AdamW}"),
        ("training", "{schedule: {warmup: 0.1}}", "write for example {ratio: 0.1}\n"),
        ("training", "{schedule: {warmup: 100}}", "write for example {steps: 100}\n"),
        ("training", "{earlyStopping: true}", "write for example {}\n"),
        ("training", "{earlyStopping: false}", "not false; remove it for the default"),
        ("training", "{evaluation: {every: 50}}", "write for example {epochs: 50} or {steps: 50}"),
        ("training", "{evaluation: {every: epoch}}", "write for example {epochs: ...} or {steps: ...}"),
        ("training", "{evaluation: {metrics: [acc]}}", "did you mean accuracy?"),
        ("training", "{precision: bf16}", "did you mean BFloat16?"),
        ("training", "{sharding: true}", "did you mean Full?"),
        ("training", "{epochs: 2.5}", "a valid integer, not 2.5"),
        ("preflight", "off", "did you mean Skip?"),
        ("training", "{evaluation: {bestMetric: auc}}", "'auc' is no metric; use loss, accuracy"),
        (
            "dataset",
            "{train: {uri: pvc://a/b}, maxInvalidRows: -1}",
            "'-1' is neither a count such as 10 nor a share",
        ),
        ("scheduling", "{queue: Team_A}", "'Team_A' is no name of a queue, which has a-z"),
        ("retry", "3", "write for example {limit: 3}\n"),
        ("activeDeadlineSeconds", "5m", "not the text '5m'; write 300\n"),
        ("ttlSecondsAfterFinished", "1h", "not the text '1h'; write 3600\n"),
        ("resources", "{limits: {memory: 8GB}}", "did you mean 8Gi, in powers of 1024, or 8G, in powers of"),
        (
            "resources",
            "{limits: {memory: a lot}}",
            "is no quantity of Kubernetes; write for example 4 or 500m (cpu)",
        ),
        ("command", "python train.py", "write it in brackets: [python, train.py]"),
    ],
)
def test_a_value_as_other_tools_have_it_is_answered_with_ours(
    tmp_path: Path, field: str, value: str, answer: str
) -> None:
    lines = [f"{field}: {value}"] + [
        f"{name}: {text}"
        for name, text in (
            ("model", "{uri: pvc://a/b}"),
            ("dataset", "{train: {uri: pvc://a/b.jsonl}}"),
            ("objective", "{classification: {}}"),
        )
        if name != field
    ]
    text = "\n  ".join([GOOD.split("spec:")[0] + "spec:", *lines])
    code, output = validated(tmp_path / "job.yaml", text)
    assert code == 1
    assert answer in output


def test_every_pattern_of_the_spec_is_said_in_words() -> None:
    there = {node["pattern"] for _, node in nodes(crd_schema("spec")) if "pattern" in node}
    assert set(SHAPES) == there
