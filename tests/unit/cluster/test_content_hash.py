"""The tag of an image follows from what the build reads, and from nothing else."""

from pathlib import Path

import pytest

from finetune_cluster.errors import ClusterError
from finetune_cluster.imagespecs import content_hash


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "code.py").write_text("print('one')\n")
    return tmp_path


def hash_of(project: Path) -> str:
    return content_hash(project, ("Dockerfile", "package"))


def test_a_changed_source_file_gives_another_tag(project: Path) -> None:
    before = hash_of(project)
    (project / "package" / "code.py").write_text("print('two')\n")
    assert hash_of(project) != before


def test_a_renamed_source_file_gives_another_tag(project: Path) -> None:
    before = hash_of(project)
    (project / "package" / "code.py").rename(project / "package" / "other.py")
    assert hash_of(project) != before


def test_byte_code_and_files_outside_the_inputs_do_not_count(project: Path) -> None:
    before = hash_of(project)
    (project / "package" / "__pycache__").mkdir()
    (project / "package" / "__pycache__" / "code.pyc").write_bytes(b"\0")
    (project / "notes.txt").write_text("not an input")
    assert hash_of(project) == before


def test_the_order_in_which_inputs_are_named_does_not_count(project: Path) -> None:
    assert content_hash(project, ("package", "Dockerfile")) == hash_of(project)


def test_a_missing_input_is_named(project: Path) -> None:
    with pytest.raises(ClusterError, match="requirements"):
        content_hash(project, ("requirements.txt",))
