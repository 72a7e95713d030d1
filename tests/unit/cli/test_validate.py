"""`finetune validate` says of every file what the API server would say, and never that nothing is valid."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from finetune_cli.main import app

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
        (GOOD.replace("classification:", "dpo:"), "spec.objective.dpo: unknown field\n"),
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
        (b"a: \xff", "can't decode byte"),
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
