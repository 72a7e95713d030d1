"""A file means to `finetune` what it means to kubectl, whose answers were taken from `helm template` with toJson."""

from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from finetune_sdk.validation import documents_in
from finetune_sdk.yaml_files import documents_of, write_documents

JOB = """
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata: {name: tiny, uid: 1a2b, resourceVersion: "7", generation: 2, labels: {team: nlp}}
spec: {suspend: off}
status: {phase: Succeeded}
"""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("y", True),
        ("no", False),
        ("NO", False),
        ("off", False),
        ("'no'", "no"),
        ("nO", "nO"),
        ("010", 8),
        ("09", 9),
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", 1000),
        ("1e3", 1000),
        ("1e-5", 1e-5),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("~", None),
    ],
)
def test_a_scalar_is_what_kubectl_reads(text: str, value: Any) -> None:
    [[found]] = documents_of(f"[{text}]")
    assert (found, type(found)) == (value, type(value))


def test_a_text_stays_a_text_and_is_quoted_only_where_kubectl_would_read_another_value() -> None:
    texts = ["no", "Yes", "off", "y", "010", "1e3", "2026-01-01", "~", "null", "0x1F", "nO", "pos"]
    out = StringIO()
    write_documents([{"labels": texts}, {"seed": 1}], out)
    assert documents_of(out.getvalue()) == [{"labels": texts}, {"seed": 1}]
    plain = [line for line in out.getvalue().splitlines() if line.startswith("- ") and "'" not in line]
    assert plain == ["- nO", "- pos"]


def test_a_job_from_a_cluster_is_read_without_what_the_cluster_wrote(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(JOB)
    [(_, body)] = documents_in(file)
    assert body["metadata"] == {"name": "tiny", "labels": {"team": "nlp"}}
    assert body["spec"] == {"suspend": False}
    assert "status" not in body
