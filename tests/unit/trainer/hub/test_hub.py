"""hf:// against a small hub: what is downloaded and what never is, at which commit, and what every refusal says."""

import io
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from builders import stored
from finetune_api.run import ExitCode, RunConfig
from finetune_core.plan.effective import resolve
from finetune_core.plan.reading import parse
from finetune_core.plan.run_config import run_config
from finetune_core.settings import OperatorSettings
from finetune_trainer.errors import TrainerError
from finetune_trainer.hub import client
from finetune_trainer.hub.fetch import at_one_commit, fetch
from finetune_trainer.process.stop import Stop
from finetune_trainer.reporting.recorder import Recorder
from hub_server import TOKEN, HubServer, serving
from unit.trainer.tiny import Job, merged, reviews
from unit.trainer.training.test_crash import ask_to_stop, do_at

ROOT = Path(__file__).resolve().parents[4]
WEIGHTS = bytes(range(256)) * 40
MODEL = {
    "config.json": b"{}",
    "tokenizer.json": b'{"version": "1.0"}',
    "vocab.txt": b"a\nb\n",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": WEIGHTS + b"pickle",
    "consolidated.safetensors": WEIGHTS + b"copy",
    "modeling.py": b"print('never')",
    "README.md": b"# card",
    "onnx/model.json": b"{}",
}
TAKEN = ["config.json", "model.safetensors", "tokenizer.json", "vocab.txt"]
REVIEWS = "".join(json.dumps(row) + "\n" for row in reviews(64)).encode()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A hub that this process may ask, with a home of its own."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(client, "RETRY_SECONDS", ())
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def fetched(tmp_path: Path) -> Callable[..., RunConfig]:
    """Fetches for a job; `model` and `dataset` are as in run.json."""

    def run(model: Any = "hf://org/base", recorder: Recorder | None = None, **dataset: Any) -> RunConfig:
        config = {
            "job": {"name": "tiny", "uid": "uid-1"},
            "model": {"uri": model} if isinstance(model, str) else model,
            "dataset": {"train": {"path": "/data/train.csv"}} | dataset,
            "objective": {"classification": {}},
            "output": {
                "modelDir": str(tmp_path / "model"),
                "stagingDir": str(tmp_path / "staging"),
                "checkpointDir": str(tmp_path / "checkpoints"),
                "hubDir": str(tmp_path / "hub"),
            },
        }
        return fetch(RunConfig.from_json(config), recorder or Recorder(), Stop())

    return run


def refusal(fetched: Callable[..., RunConfig], code: ExitCode, *arguments: Any, **dataset: Any) -> str:
    """The sentence of a fetch that has to fail with this exit code."""
    with pytest.raises(TrainerError) as caught:
        fetched(*arguments, **dataset)
    assert caught.value.code == code, caught.value.message
    assert caught.value.place is not None
    assert TOKEN not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("revision", ["", "@main", "@v1", "@refs/pr/1", "@COMMIT"])
def test_a_model_is_fetched_at_the_commit_that_its_revision_stands_for(
    hub: HubServer, fetched: Callable[..., RunConfig], revision: str
) -> None:
    commit = hub.repository("org/base", MODEL, "v1", "refs/pr/1")
    model = fetched("hf://org/base" + revision.replace("COMMIT", commit)).model
    assert model.revision == commit
    assert sorted(path.name for path in Path(model.path).iterdir()) == TAKEN
    assert (Path(model.path) / "model.safetensors").read_bytes() == WEIGHTS


def test_pickles_code_and_exports_are_not_even_asked_for(
    hub: HubServer, fetched: Callable[..., RunConfig]
) -> None:
    hub.repository("org/base", MODEL)
    fetched()
    files = {line.rpartition("/")[2] for line in hub.asked if "/resolve/" in line or "cdn/" in line}
    assert files == set(TAKEN)


def test_an_older_commit_is_taken_where_an_earlier_attempt_found_it(
    hub: HubServer, fetched: Callable[..., RunConfig]
) -> None:
    first = hub.repository("org/base", MODEL)
    second = hub.repositories["org/base"].commit(MODEL | {"config.json": b'{"new": true}'})
    assert fetched({"uri": "hf://org/base@main"}).model.revision == second
    pinned = fetched({"uri": "hf://org/base@main", "revision": first}).model
    assert pinned.revision == first
    assert (Path(pinned.path) / "config.json").read_bytes() == b"{}"


def test_a_retry_downloads_nothing_again(hub: HubServer, fetched: Callable[..., RunConfig]) -> None:
    commit = hub.repository("org/base", MODEL)
    fetched()
    hub.asked.clear()
    fetched({"uri": "hf://org/base@main", "revision": commit})
    assert hub.asked == []


def test_a_random_start_needs_no_weights(hub: HubServer, fetched: Callable[..., RunConfig]) -> None:
    hub.repository("org/base", MODEL)
    model = fetched({"uri": "hf://org/base", "initialize": "Random"}).model
    assert "model.safetensors" not in {path.name for path in Path(model.path).iterdir()}


def test_data_and_a_tokenizer_have_their_own_commits_and_are_reported_before_they_are_read(
    hub: HubServer, fetched: Callable[..., RunConfig]
) -> None:
    base, other = (
        hub.repository("org/base", MODEL),
        hub.repository("org/tokenizer", MODEL | {"x.json": b"{}"}),
    )
    rows = hub.repository(
        "datasets/org/reviews", {"data/train.jsonl": REVIEWS, "test.csv": b"text,label\n"}, "v1"
    )
    recorder = Recorder()
    config = fetched(
        {"uri": "hf://org/base", "tokenizerUri": "hf://org/tokenizer"},
        recorder,
        train={"uri": "hf://datasets/org/reviews@v1/data/train.jsonl"},
        test={"uri": "hf://datasets/org/reviews/test.csv"},
    )
    assert Path(config.dataset.train.path).read_bytes() == REVIEWS
    assert Path(config.dataset.train.path).name == "train.jsonl"
    assert config.dataset.test is not None
    assert config.dataset.test.revision == rows
    assert config.model.tokenizer_path is not None
    assert not list(Path(config.model.tokenizer_path).glob("*.safetensors"))
    resolved = recorder.report.resolved
    assert resolved is not None
    found = (resolved.model, resolved.tokenizer, resolved.train, resolved.test)
    assert [part and part.revision for part in found] == [base, other, rows, rows]


def test_the_token_of_a_file_opens_a_private_repository_and_goes_nowhere_else(
    hub: HubServer, fetched: Callable[..., RunConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.repository("org/base", MODEL, private=True)
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    config = fetched()
    assert config.model.revision
    assert hub.tokens_at_the_cdn == [None]
    assert TOKEN not in config.model_dump_json() + "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("access", "token", "says"),
    [
        ({"private": True}, None, "the name is wrong, or it is private; then create a token"),
        ({"gated": True}, None, "it is gated, and there is no token; accept the terms on its page"),
        ({"private": True}, "hf_wrong", "refuses this token (HTTP 401)"),
        ({}, "hf_wrong", "refuses this token (HTTP 401)"),
    ],
)
def test_a_refused_repository_names_the_credentials(
    hub: HubServer,
    fetched: Callable[..., RunConfig],
    tmp_path: Path,
    access: Any,
    token: str | None,
    says: str,
) -> None:
    hub.repository("org/base", MODEL, **access)
    if token:
        (tmp_path / "token").write_text(token)
    message = refusal(fetched, ExitCode.NOT_FOUND)
    assert message.startswith("model.uri: hf://org/base")
    assert says in message
    assert message.endswith("set model.credentials.secretName to its name")


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("hf://org/none", "model.uri: hf://org/none is not on http://127.0.0.1"),
        ("hf://org/base@none", "hf://org/base@none: the repository has no such branch, tag or commit"),
        ("hf://org/base@" + "0" * 40, "the repository has no such branch, tag or commit"),
        (
            "hf://org/pickled",
            "has no *.safetensors weights (only pytorch_model.bin, which can run code when loaded)",
        ),
        ("hf://org/empty", "has no *.safetensors weights (none)"),
        ("hf://org/base@a b", "is neither hf://ORG/NAME@REVISION nor"),
    ],
)
def test_a_model_that_is_not_there_is_named_with_the_remedy(
    hub: HubServer, fetched: Callable[..., RunConfig], uri: str, says: str
) -> None:
    hub.repository("org/base", MODEL)
    hub.repository("org/pickled", {"config.json": b"{}", "pytorch_model.bin": WEIGHTS})
    hub.repository("org/empty", {"README.md": b"# nothing"})
    code = ExitCode.CONFIGURATION if " " in uri else ExitCode.NOT_FOUND
    assert says in refusal(fetched, code, uri)
    assert not any("pytorch_model.bin" in line for line in hub.asked)


def test_a_data_file_that_is_not_there_is_named(hub: HubServer, fetched: Callable[..., RunConfig]) -> None:
    hub.repository("datasets/org/reviews", {"train.csv": b"text,label\n"})
    local = {"path": "/models/base"}
    uri = "hf://datasets/org/reviews/trian.csv"
    assert f"dataset.train.uri: {uri}: the repository has no such file" in refusal(
        fetched, ExitCode.NOT_FOUND, local, train={"uri": uri}
    )


SHARDS = {f"data/train-{number}.jsonl": REVIEWS[number:] for number in range(3)}
PATTERN = {"uri": "hf://datasets/org/reviews@v1/data/train-*.jsonl"}


def test_the_files_of_a_pattern_are_fetched_at_one_commit(
    hub: HubServer, fetched: Callable[..., RunConfig]
) -> None:
    others = {
        "train-9.jsonl": b"",
        "data/test-0.jsonl": b"",
        "data/train-0/x.jsonl": b"",
        "data/.train-8.jsonl": b"",
    }
    commit = hub.repository("datasets/org/reviews", SHARDS | others, "v1")
    local = {"path": "/models/base"}
    config = fetched(local, train=PATTERN)
    path = Path(config.dataset.train.path)
    assert (path.name, config.dataset.train.revision) == ("train-*.jsonl", commit)
    assert {f"data/{file.name}": file.read_bytes() for file in path.parent.iterdir()} == SHARDS
    hub.repositories["datasets/org/reviews"].commit(SHARDS | {"data/train-3.jsonl": REVIEWS}, "v1")
    again = fetched(local, train=PATTERN | {"revision": commit})
    assert (again.dataset.train.path, again.dataset.train.revision) == (str(path), commit)


def test_a_pattern_that_matches_no_file_of_the_repository_names_those_that_are_there(
    hub: HubServer, fetched: Callable[..., RunConfig]
) -> None:
    hub.repository("datasets/org/reviews", {"data/test-0.jsonl": b"", "README.md": b""}, "v1")
    assert refusal(fetched, ExitCode.NOT_FOUND, {"path": "/models/base"}, train=PATTERN) == (
        f"dataset.train.uri: {PATTERN['uri']} matches no file; the repository has data/test-0.jsonl"
    )


def test_a_cache_with_some_of_the_files_is_not_taken_for_all_of_them(
    hub: HubServer, fetched: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    hub.repository("datasets/org/reviews", SHARDS, "v1")
    local = {"path": "/models/base"}
    fetched(local, train={"uri": "hf://datasets/org/reviews@v1/data/train-0.jsonl"})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "and the Hub is offline" in refusal(fetched, ExitCode.NOT_FOUND, local, train=PATTERN)


def test_a_hub_that_cannot_be_reached_is_asked_another_time(
    hub: HubServer, fetched: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    message = refusal(fetched, ExitCode.STORAGE)
    assert "model.uri: hf://org/base could not be downloaded from http://127.0.0.1:9" in message
    assert "HF_ENDPOINT" in message


def test_an_interrupted_download_leaves_nothing_half_and_goes_on_with_the_file_it_broke_in(
    hub: HubServer, fetched: Callable[..., RunConfig], tmp_path: Path
) -> None:
    hub.repository("org/base", MODEL)
    hub.broken["model.safetensors"] = 5000
    assert "responded with HTTP 503" in refusal(fetched, ExitCode.STORAGE)
    assert not [
        path for path in (tmp_path / "hub").rglob("*") if path.is_file() and path.stat().st_size == 5000
    ]
    hub.broken.clear()
    hub.asked.clear()
    model = fetched().model
    assert (Path(model.path) / "model.safetensors").read_bytes() == WEIGHTS
    assert [line.rpartition("/")[2] for line in hub.asked if line.startswith("GET cdn/")] == [
        "model.safetensors"
    ]
    assert not any("config.json" in line for line in hub.asked)


def test_a_file_that_comes_damaged_is_removed_and_told(
    hub: HubServer, fetched: Callable[..., RunConfig]
) -> None:
    hub.repository("org/base", MODEL)
    hub.flipped.add("model.safetensors")
    assert "model.safetensors of hf://org/base came damaged" in refusal(fetched, ExitCode.STORAGE)
    hub.flipped.clear()
    assert (Path(fetched().model.path) / "model.safetensors").read_bytes() == WEIGHTS


def test_a_full_disk_is_a_fault_of_the_storage(hub: HubServer, made: Job) -> None:
    hub.repository("org/base", MODEL)
    job = made.changed({"model": {"path": None, "uri": "hf://org/base"}})
    assert job.run_apart(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))) == ExitCode.STORAGE
    assert f"could not be written to {job.folder}/out/uid-1/hub: File too large; check" in job.log


def test_without_the_hub_a_warm_cache_is_enough_and_a_cold_one_is_told(
    hub: HubServer, fetched: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    commit = hub.repository("org/base", MODEL)
    hub.repository("datasets/org/reviews", {"train.jsonl": REVIEWS})
    train = {"uri": "hf://datasets/org/reviews/train.jsonl"}
    fetched("hf://org/base@main", train=train)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    assert fetched("hf://org/base@main", train=train).model.revision == commit
    shutil.rmtree(tmp_path / "hub")
    for fields in ({}, {"model": {"path": "/models/base"}, "train": train}):
        message = refusal(fetched, ExitCode.NOT_FOUND, **fields)
        assert "and the Hub is offline (HF_HUB_OFFLINE" in message
    assert hub.asked == []


def test_several_processes_take_what_one_downloaded_though_the_branch_moves(
    hub: HubServer, fetched: Callable[..., RunConfig], tmp_path: Path
) -> None:
    commit = hub.repository("org/base", MODEL)
    config = fetched({"uri": "hf://org/base@main"})
    shutil.rmtree(tmp_path / "hub")
    named = config.model_copy(
        update={"model": config.model.model_copy(update={"path": "", "revision": None})}
    )
    with at_one_commit(tmp_path / "run.json", named, Recorder(), Stop()) as run_json:
        hub.repositories["org/base"].commit({"config.json": b"{}"})
        hub.asked.clear()
        of_a_rank = fetch(RunConfig.from_json(json.loads(run_json.read_text())), Recorder(), Stop())
    assert of_a_rank.model.revision == commit
    assert hub.asked == []


def test_a_stop_ends_a_download(hub: HubServer, tmp_path: Path, fetched: Callable[..., RunConfig]) -> None:
    hub.repository("org/base", MODEL)
    config = fetched()
    shutil.rmtree(tmp_path / "hub")
    with pytest.raises(TrainerError, match="stopped by SIGTERM while hf://org/base was downloaded") as caught:
        fetch(config, Recorder(), Stop(requested=True))
    assert caught.value.code is ExitCode.INTERRUPTED


@pytest.fixture
def made(hub: HubServer, make_job: Callable[..., Job], model_folder: Path, tmp_path: Path) -> Job:
    """A job whose model and data are on the hub, and whose downloads lie beside its checkpoints."""
    files = {path.name: path.read_bytes() for path in model_folder.iterdir()}
    hub.repository("org/base", files | {"pytorch_model.bin": b"pickle"}, private=True)
    hub.repository("datasets/org/reviews", {"train.jsonl": REVIEWS})
    (tmp_path / "token").write_text(TOKEN)
    own = tmp_path / "job" / "out" / "uid-1"
    return make_job(
        model={"path": None, "uri": "hf://org/base@main"},
        dataset={"train": {"path": None, "uri": "hf://datasets/org/reviews/train.jsonl"}},
        output={"checkpointDir": str(own / "checkpoints"), "hubDir": str(own / "hub")},
    )


def test_a_whole_run_from_the_hub_records_the_commits_and_leaves_no_download(
    hub: HubServer, made: Job
) -> None:
    assert made.run_apart() == ExitCode.DONE, made.log
    resolved, model = made.report.resolved, made.report.model
    assert resolved is not None
    assert resolved.model is not None
    assert resolved.train is not None
    assert resolved.validation is not None
    assert model is not None
    assert (resolved.model.uri, model.base_model) == ("hf://org/base@main", "hf://org/base@main")
    assert [resolved.model.revision] == list(hub.repositories["org/base"].commits)
    rows = list(hub.repositories["datasets/org/reviews"].commits)
    assert [resolved.train.revision] == [resolved.validation.revision] == rows
    assert resolved.model.digest
    assert "base_model: org/base" in (made.model_dir / "README.md").read_text()
    assert not (made.folder / "out" / "uid-1").exists()
    assert TOKEN not in made.log + (made.model_dir / "run.json").read_text()


def test_a_retry_goes_on_from_its_checkpoint_though_the_branch_has_moved(hub: HubServer, made: Job) -> None:
    first = made.changed({"training": {"epochs": 50, "checkpoint": {"every": {"steps": 3}}}})
    assert first.run_apart(lambda: do_at("step", 4, ask_to_stop)) == ExitCode.INTERRUPTED, first.log
    for repository in hub.repositories.values():
        repository.commit({"config.json": b"{}", "model.safetensors": b"other", "train.jsonl": b"other"})
    hub.asked.clear()
    resolved = first.report.resolved
    assert resolved is not None
    assert resolved.model is not None
    assert resolved.train is not None
    pins = {
        "model": {"revision": resolved.model.revision},
        "dataset": {"train": {"revision": resolved.train.revision}},
    }
    again = first.changed(pins | {"job": {"attempt": 2}})
    assert again.run_apart(lambda: do_at("step", 1, ask_to_stop)) == ExitCode.INTERRUPTED, again.log
    assert "resuming from the checkpoint of step 4" in again.log
    assert hub.asked == []


def test_a_process_of_its_own_asks_the_hub_for_its_inputs_alone(
    hub: HubServer, made: Job, tmp_path: Path
) -> None:
    job = made.changed({"dataset": {"columns": {"text": "body"}}})
    environment = os.environ | {
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN_PATH": str(tmp_path / "token"),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    command = [sys.executable, "-m", "finetune_trainer", str(job.write())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.DATA, done.stderr
    assert "hf://datasets/org/reviews/train.jsonl, row 1" in done.stderr
    assert [line for line in hub.asked if not ("org/base" in line or "org/reviews" in line)] == []
    assert TOKEN not in done.stdout + done.stderr
    reported = job.report.resolved
    assert reported is not None, "the commits are told before the rows are read"
    assert reported.model is not None
    assert reported.model.revision


def test_the_example_trains_from_the_hub_as_the_operator_plans_it(
    hub: HubServer, model_folder: Path, tmp_path: Path
) -> None:
    example = YAML(typ="safe", pure=True).load((ROOT / "examples" / "quickstart-hub.yaml").read_text())
    hub.repository(
        "sentence-transformers/all-MiniLM-L6-v2",
        {path.name: path.read_bytes() for path in model_folder.iterdir()},
    )
    parts = {"train": reviews(640), "validation": reviews(40, start=1000), "test": reviews(40, start=2000)}
    files = {f"{part}.parquet": parquet(rows) for part, rows in parts.items()}
    hub.repository("datasets/cornell-movie-review-data/rotten_tomatoes", files)
    of, settings = parse(stored(example)), OperatorSettings(trainer_image="trainer")
    planned = run_config(of, resolve(of, settings), 1, settings).to_json()
    moved = json.loads(json.dumps(planned).replace("/mnt/output", str(tmp_path)))
    tiny = {"optimizer": {"learningRate": 5e-3}}  # random weights of width 32 need larger steps
    own = {"training": tiny, "metricsPort": 0, "terminationLog": str(tmp_path / "termination")}
    made = Job(tmp_path, merged(moved, own))
    assert made.run_apart() == ExitCode.DONE, made.log
    model = made.report.model
    assert model is not None
    assert model.metrics["test_accuracy"] > 0.8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "model", "run.json", "termination"]


def parquet(rows: list[dict[str, Any]]) -> bytes:
    """As the dataset has them: a text, and 0 or 1."""
    import pyarrow
    import pyarrow.parquet

    labels = [int(row["label"] == "pos") for row in rows]
    table = pyarrow.table({"text": [row["text"] for row in rows], "label": labels})
    written = io.BytesIO()
    pyarrow.parquet.write_table(table, written)
    return written.getvalue()
