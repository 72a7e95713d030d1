"""A model is copied whole and as it was published, or not at all."""

import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from api_stub import Stub, api_stub
from builders import job, stored
from finetune_sdk import Client, Job
from finetune_sdk.copypod import OutputOf, pod_of
from finetune_sdk.errors import ModelError
from finetune_sdk.model import copied, extract, verify

FILES = {"model.safetensors": b"weights", "config.json": b"{}", "members/1/config.json": b"[]"}


def published(folder: Path) -> str:
    """A model's folder; its digest."""
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(FILES.items())]
    (folder / "SHA256SUMS").write_text("".join(lines))
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


def archive(folder: Path) -> io.BytesIO:
    """As tar writes it in the pod."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.add(folder, ".")
    out.seek(0)
    return out


def test_a_model_comes_through_tar_as_it_was_published(tmp_path: Path) -> None:
    digest = published(tmp_path / "claim")
    target = copied(tmp_path / "model", digest, lambda folder: extract(archive(tmp_path / "claim"), folder))
    assert {name: (target / name).read_bytes() for name in FILES} == FILES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["claim", "model"]


def test_the_present_folder_takes_a_model_and_a_folder_below_a_file_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, here = published(tmp_path / "claim"), tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    target = copied(Path(), digest, lambda folder: extract(archive(tmp_path / "claim"), folder))
    assert target == here
    assert {name: (here / name).read_bytes() for name in FILES} == FILES
    with pytest.raises(ModelError, match="x cannot be written: Not a directory; choose another folder"):
        copied(here / "config.json" / "x", digest, lambda folder: None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda folder: (folder / "config.json").write_bytes(b"[]"),
            "config.json does not have its checksum",
        ),
        (lambda folder: (folder / "config.json").unlink(), r"missing \(config.json\)"),
        (lambda folder: (folder / "extra").write_bytes(b""), r"unknown \(extra\)"),
        (lambda folder: (folder / "SHA256SUMS").write_bytes(b""), "was changed since the job published it"),
        (lambda folder: (folder / "SHA256SUMS").unlink(), "has no SHA256SUMS"),
    ],
    ids=["damaged", "missing", "more", "other sums", "no sums"],
)
def test_a_changed_model_is_refused_and_nothing_is_left(
    tmp_path: Path, change: Callable[[Path], object], said: str
) -> None:
    digest = published(tmp_path / "claim")
    change(tmp_path / "claim")
    with pytest.raises(ModelError, match=said):
        copied(tmp_path / "model", digest, lambda folder: extract(archive(tmp_path / "claim"), folder))
    assert [path.name for path in tmp_path.iterdir()] == ["claim"]


def test_a_folder_with_something_in_it_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(ModelError, match="exists and is not empty"):
        copied(tmp_path, None, lambda _: None)
    assert (tmp_path / "mine").read_text() == "x"


@pytest.mark.parametrize("name", ["../outside", "/absolute", "link"])
def test_nothing_is_written_outside_of_the_folder(tmp_path: Path, name: str) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.type = tarfile.SYMTYPE if name == "link" else tarfile.REGTYPE
        entry.linkname = "/etc/passwd"
        tar.addfile(entry)
    out.seek(0)
    with pytest.raises(ModelError, match="is not a regular file in it"):
        extract(out, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_archive_that_breaks_off_is_an_error(tmp_path: Path) -> None:
    published(tmp_path / "claim")
    whole = archive(tmp_path / "claim").getvalue()
    with pytest.raises(ModelError, match="the copy broke off"):
        extract(io.BytesIO(whole[:700]), tmp_path / "model")


def test_from_a_folder_that_holds_the_claim(tmp_path: Path) -> None:
    digest = published(tmp_path / "claim" / "models" / "a")
    model = {"uri": "pvc://out/models/a", "digest": digest, "format": "safetensors"}
    with api_stub(tmp_path) as stub:
        done = _with(stub, model)
        done.get_model(tmp_path / "model", tmp_path / "claim")
        verify(tmp_path / "model", digest)
        with pytest.raises(ModelError, match="is the claim's folder the right one"):
            done.get_model(tmp_path / "other", tmp_path)
        with pytest.raises(ModelError, match="has no model: waiting for the operator"):
            _with(stub, None).get_model(tmp_path / "other")


def _with(stub: Stub, model: dict[str, str] | None) -> Job:
    stub.put(stored(job("a"), namespace="team") | {"status": {"model": model} if model else {}})
    return Client(kubeconfig=str(stub.kubeconfig)).get("a")


class Socket:
    """What the client library's socket does while a command writes these frames and ends with this code."""

    def __init__(self, frames: list[bytes], returncode: int = 0) -> None:
        self.frames, self.returncode, self.buffer = frames, returncode, b""

    def is_open(self) -> bool:
        return bool(self.frames)

    def update(self, timeout: float) -> None:
        if self.frames:
            self.buffer += self.frames.pop(0)

    def peek_stdout(self) -> bytes:
        return self.buffer

    def read_stdout(self) -> bytes:
        found, self.buffer = self.buffer, b""
        return found

    def read_stderr(self) -> bytes:
        return b"tar: /claim/x: Cannot open\n"


def test_the_output_of_a_command_is_a_file() -> None:
    frames = [b"a" * 70_000, b"", b"b", b"c" * 3]
    assert io.BufferedReader(OutputOf(Socket(frames))).read() == b"a" * 70_000 + b"b" + b"ccc"


def test_a_command_that_fails_is_said_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read: tar: /claim/x: Cannot open"):
        extract(io.BufferedReader(OutputOf(Socket([], returncode=2))), tmp_path)


def test_the_pod_is_restricted_and_cannot_write() -> None:
    scheduling = {"imagePullSecrets": ["pull"], "nodeSelector": {"disk": "ssd"}}
    spec = pod_of(stored(job("a" * 40, scheduling=scheduling)), "out", "registry/t:1")["spec"]
    (container,) = spec["containers"]
    assert container["volumeMounts"] == [{"name": "claim", "mountPath": "/claim", "readOnly": True}]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    assert spec["nodeSelector"] == {"disk": "ssd"}
    assert not spec["automountServiceAccountToken"]
