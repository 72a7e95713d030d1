"""Files are streamed: memory stays small whatever their size, and tokens are made once and kept in files."""

import json
import os
import subprocess
import sys

import numpy as np
import pyarrow.parquet
import pytest

from finetune_api.dataset import ColumnsSpec, PreprocessingSpec
from finetune_api.run import DataInput, ExitCode
from finetune_trainer.data import cache as cache_module
from finetune_trainer.data.cache import TEMPORARY, TokenCache, token_digest
from finetune_trainer.data.deduplicate import Deduplicator
from finetune_trainer.data.encoding import Encoding
from finetune_trainer.data.labels import Labels
from finetune_trainer.data.rows import ReadOptions
from finetune_trainer.data.sources import scan
from finetune_trainer.data.tokens import CHUNK_ROWS, tokenize
from finetune_trainer.errors import DataError, StoppedError, StorageError
from finetune_trainer.objectives.classification import Classification
from finetune_trainer.objectives.labels import label_text
from unit.trainer.logs import messages
from unit.trainer.tiny import reviews, write_jsonl
from unit.trainer.vocabularies import word_pieces

OBJECTIVE = Classification(["neg", "pos"])


def source(path, check=lambda: None, **preprocessing):
    spec = PreprocessingSpec(**preprocessing)
    options = ReadOptions(ColumnsSpec(), spec, "0", label_text)
    data = DataInput(path=str(path), uri="pvc://data/a.jsonl")
    return scan("dataset.train", data, options, Deduplicator(spec.deduplicate), check).source


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = ({"text": f"film {n}", "label": "pos" if n % 3 else "neg"} for n in range(CHUNK_ROWS + 10))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def how(max_length=16):
    return Encoding(word_pieces(), max_length)


def examples_of(folder, source, how, check=lambda: None):
    """Examples by way of the cache, and what it said."""
    said = messages()
    with TokenCache(folder / "tokens", check) as cache:
        return cache.examples(source, OBJECTIVE, how), said


def test_tokens_in_files_are_those_in_memory_and_are_mapped(tmp_path, path):
    rows, encoding = source(path), how()
    mapped, said = examples_of(tmp_path, rows, encoding)
    held = tokenize(rows, OBJECTIVE, encoding.tokenizer, encoding.max_length)
    for field in ("ids", "offsets", "targets", "lines", "lengths"):
        assert np.array_equal(getattr(mapped, field), getattr(held, field)), field
    assert (mapped.name, mapped.per_token, len(mapped), said) == (
        "pvc://data/a.jsonl",
        False,
        len(rows.rows),
        [],
    )
    assert not mapped.ids.flags.owndata


def test_a_retry_takes_the_tokens_that_are_there_and_says_so(tmp_path, path):
    first, _ = examples_of(tmp_path, source(path), how())
    (folder,) = (tmp_path / "tokens").iterdir()
    made = folder.stat().st_mtime_ns
    again, said = examples_of(tmp_path, source(path), how())
    assert said == ["the tokens of 1034 rows of pvc://data/a.jsonl are there from an earlier attempt"]
    assert np.array_equal(first.ids, again.ids)
    assert folder.stat().st_mtime_ns == made


def test_whatever_changes_the_tokens_changes_their_digest(path):
    plain, encoding = source(path), how()
    digests = {
        token_digest(plain, OBJECTIVE, encoding),
        token_digest(source(path, lowercase=True), OBJECTIVE, encoding),
        token_digest(plain, Classification(["pos", "neg"]), encoding),
        token_digest(plain, OBJECTIVE, how(8)),
        token_digest(plain, OBJECTIVE, Encoding(word_pieces(), 16, mask_prompt=False)),
    }
    extended = how()
    extended.tokenizer.add_tokens(["filmography"])
    digests.add(token_digest(plain, OBJECTIVE, extended))
    path.write_text(path.read_text().replace("film 7", "film seven"))
    digests.add(token_digest(source(path), OBJECTIVE, encoding))
    assert len(digests) == 7


def test_other_tokens_and_leftovers_are_removed(tmp_path, path):
    examples_of(tmp_path, source(path), how(8))
    (tmp_path / "tokens" / ".writing-dead").mkdir()
    examples_of(tmp_path, source(path), how())
    assert len(list((tmp_path / "tokens").iterdir())) == 1


def truncated(folder):
    (folder / "ids.npy").write_bytes((folder / "ids.npy").read_bytes()[:-10])


def empty(folder):
    (folder / "lines.npy").write_bytes(b"")


def overwritten(folder):
    (folder / "offsets.npy").write_bytes(bytes(4096))


def missing(folder):
    (folder / "targets.npy").unlink()


def of_fewer_rows(folder):
    for name in ("lines", "targets"):
        np.save(folder / f"{name}.npy", np.load(folder / f"{name}.npy")[:-1])


def of_fewer_tokens(folder):
    np.save(folder / "ids.npy", np.load(folder / "ids.npy")[:-1])


def without_rows(folder):
    for name in ("ids", "offsets", "targets", "lines"):
        np.save(folder / f"{name}.npy", np.load(folder / f"{name}.npy")[:0])


def an_archive(folder):
    (folder / "ids.npy").write_bytes(b"PK\x03\x04")


@pytest.mark.parametrize(
    "damage",
    [truncated, empty, overwritten, missing, of_fewer_rows, of_fewer_tokens, without_rows, an_archive],
)
def test_damaged_tokens_are_made_again_with_a_warning(tmp_path, path, damage):
    examples_of(tmp_path, source(path), how())
    (folder,) = (tmp_path / "tokens").iterdir()
    damage(folder)
    again, said = examples_of(tmp_path, source(path), how())
    assert said == ["the tokens of pvc://data/a.jsonl from an earlier attempt are damaged: made again"]
    held = tokenize(source(path), OBJECTIVE, how().tokenizer, how().max_length)
    for field in ("ids", "offsets", "targets", "lines"):
        assert np.array_equal(getattr(again, field), getattr(held, field)), field


def test_a_cancelled_run_leaves_no_half_cache(tmp_path, path):
    calls = []

    def stop():
        calls.append(1)
        if len(calls) == 3:
            raise StoppedError("stopped by SIGTERM")

    with pytest.raises(StoppedError):
        examples_of(tmp_path, source(path), how(), stop)
    assert list((tmp_path / "tokens").iterdir()) == []


def test_of_several_processes_one_writes_and_the_others_wait_for_it(tmp_path, path):
    encoding, waited = how(), []

    def write_meanwhile():
        waited.append(1)
        if len(waited) == 2:
            examples_of(tmp_path, source(path), encoding)

    with TokenCache(tmp_path / "tokens", write_meanwhile, writes=False) as cache:
        awaited = cache.examples(source(path), OBJECTIVE, encoding)
    assert len(waited) == 2
    assert len(awaited) == CHUNK_ROWS + 10


def shared_examples(folder, source, how, check=lambda: None):
    """The same by way of a folder that runs share, and what it said."""
    said = messages()
    with TokenCache(folder / "tokens", check, shared=True) as cache:
        return cache.examples(source, OBJECTIVE, how), said


def test_runs_that_share_a_folder_tokenize_once_and_keep_what_others_need(tmp_path, path, monkeypatch):
    shared_examples(tmp_path, source(path), how(16))
    shared_examples(tmp_path, source(path), how(8))
    assert len(list((tmp_path / "tokens").iterdir())) == 2, (
        "a run that shares no folder would have removed the first"
    )
    monkeypatch.setattr(cache_module, "arrays_of", lambda *_: pytest.fail("it tokenizes again"))
    again, said = shared_examples(tmp_path, source(path), how(16))
    assert said == [
        f"the tokens of {CHUNK_ROWS + 10} rows of pvc://data/a.jsonl are there from an earlier run"
    ]
    assert len(again) == CHUNK_ROWS + 10


def test_a_run_waits_for_no_other_and_keeps_the_tokens_of_the_first(tmp_path, path):
    dead = tmp_path / "tokens" / f"{TEMPORARY}dead"
    dead.mkdir(parents=True)
    (dead / "ids.npy").write_bytes(b"half")
    done: list[int] = []

    def another_run_is_faster():
        if not done:
            done.append(1)
            shared_examples(tmp_path, source(path), how())
            (whole,) = [one for one in (tmp_path / "tokens").iterdir() if TEMPORARY not in one.name]
            done.append(whole.stat().st_ino)

    examples, _ = shared_examples(tmp_path, source(path), how(), check=another_run_is_faster)
    (whole,) = [one for one in (tmp_path / "tokens").iterdir() if TEMPORARY not in one.name]
    assert whole.stat().st_ino == done[1]
    assert len(examples) == CHUNK_ROWS + 10
    assert dead.exists(), "it may be of a run that is still writing"
    os.utime(dead, (0, 0))
    shared_examples(tmp_path, source(path), how())
    assert not dead.exists()


def test_damaged_tokens_in_a_shared_folder_are_made_again(tmp_path, path):
    shared_examples(tmp_path, source(path), how())
    (folder,) = (tmp_path / "tokens").iterdir()
    (folder / "ids.npy").write_bytes((folder / "ids.npy").read_bytes()[:-8])
    again, said = shared_examples(tmp_path, source(path), how())
    assert "damaged" in said[0]
    assert len(again) == CHUNK_ROWS + 10


def test_a_cache_that_cannot_be_written_is_a_storage_error(tmp_path, path):
    (tmp_path / "tokens").write_text("in the way")
    with pytest.raises(StorageError, match="the token cache could not be written"):
        examples_of(tmp_path, source(path), how())


def test_a_file_that_changes_between_the_two_readings_is_an_error(path):
    rows = source(path)
    path.write_text(path.read_text()[:5000])
    with pytest.raises(DataError, match="changed while it was read"):
        list(rows.rows)


def test_a_file_that_is_replaced_by_one_with_as_many_rows_is_an_error_too(path, tmp_path):
    rows = source(path)
    other = tmp_path / "other.jsonl"
    other.write_text(path.read_text().replace("neg", "pos"))
    other.replace(path)
    with pytest.raises(DataError, match="changed while it was read"):
        list(rows.rows)


def test_a_file_that_grows_while_it_is_scanned_is_an_error(path):
    def append() -> None:
        with path.open("a") as file:
            file.write(path.read_text().splitlines()[0] + "\n")

    with pytest.raises(DataError, match="changed while it was read"):
        source(path, append)


MEASURE = """
import resource, sys
from finetune_api.dataset import ColumnsSpec, PreprocessingSpec
from finetune_api.run import DataInput
from finetune_trainer.data.deduplicate import Deduplicator
from finetune_trainer.data.rows import ReadOptions
from finetune_trainer.data.sources import scan
from finetune_trainer.objectives.labels import label_text

def read(path):
    spec = PreprocessingSpec(deduplicate="Exact")
    options = ReadOptions(ColumnsSpec(), spec, "0", label_text, labelled=not path.endswith(".txt"))
    source = scan("dataset.train", DataInput(path=path), options, Deduplicator(spec.deduplicate)).source
    return sum(len(row.text) for row in source.rows), len(source.rows)

read(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
characters, rows = read(sys.argv[2])
print(characters, rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


LINES = {
    "jsonl": ("", '{{"text": "{}", "label": "x"}}\n'),
    "csv": ("text,label\n", "{},x\n"),
    "txt": ("", "{}\n"),
}
"""The head of a file, and each of its lines, by the ending."""


def written(path, count):
    """A file of so many texts of 51,200 characters, no two alike; of parquet in one row group, which is not packed."""
    texts = (f"{number} {'words of a text ' * 3200}".rstrip() for number in range(count))
    if path.suffix == ".parquet":
        table = pyarrow.table({"text": list(texts), "label": ["x"] * count})
        pyarrow.parquet.write_table(
            table, path, row_group_size=count, compression="none", use_dictionary=False
        )
    else:
        head, line = LINES[path.suffix[1:]]
        with path.open("w") as file:
            file.write(head)
            file.writelines(line.format(text) for text in texts)
    return path


@pytest.mark.parametrize("ending", [*LINES, "parquet"])
def test_a_file_of_50_megabytes_is_read_in_ten(tmp_path, ending):
    small, large = written(tmp_path / f"s.{ending}", 2), written(tmp_path / f"l.{ending}", 1000)
    assert large.stat().st_size > 50_000_000
    measured = subprocess.run(
        [sys.executable, "-c", MEASURE, str(small), str(large)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    characters, rows, kibibytes = map(int, measured.stdout.split())
    assert (characters > 50_000_000, rows) == (True, 1000)
    assert kibibytes < 10_000


def test_a_second_attempt_reuses_the_tokens_and_success_removes_them(make_job, capsys):
    job = make_job()
    in_the_way = job.folder / "out" / "staging"
    in_the_way.parent.mkdir()
    in_the_way.write_text("")
    assert job.run() == ExitCode.STORAGE
    assert len(list((job.checkpoint_dir / "tokens").iterdir())) == 2
    in_the_way.unlink()
    capsys.readouterr()
    assert job.run() == ExitCode.DONE
    said = "".join(capsys.readouterr())
    for rows in (48, 16):
        assert (
            f"the tokens of {rows} rows of pvc://data/train.jsonl are there from an earlier attempt" in said
        )
    assert not job.checkpoint_dir.exists()


def test_a_second_attempt_reuses_the_tokens_of_several_files_until_one_of_them_changes(make_job, capsys):
    job = make_job()
    for number in range(2):
        write_jsonl(job.folder / f"part-{number}.jsonl", reviews(40, start=40 * number))
    train = {"path": str(job.folder / "part-*.jsonl"), "uri": "pvc://data/part-*.jsonl"}
    job = job.changed({"dataset": {"train": train}})
    (job.folder / "out").mkdir()
    (job.folder / "out" / "staging").write_text("in the way")
    said = "rows of pvc://data/part-*.jsonl are there from an earlier attempt"
    for found in (0, 2):
        capsys.readouterr()
        assert job.run() == ExitCode.STORAGE
        assert "".join(capsys.readouterr()).count(said) == found
    write_jsonl(job.folder / "part-1.jsonl", reviews(40, start=200))
    assert job.run() == ExitCode.STORAGE
    log = "".join(capsys.readouterr())
    assert said not in log
    assert "it was written for another configuration or other data" in log


@pytest.mark.parametrize(
    "labels",
    [["b", "a", "b"], [1.5, -2.0], [("b", "a"), (), ("a",)], [(1.0, 2.0), (3.0, 4.0)], [(), ("a",)]],
)
def test_labels_kept_in_little_memory_are_those_that_were_read(labels):
    kept = Labels()
    for label in labels:
        kept.append(label)
    assert list(kept) == labels
    assert kept[-1] == labels[-1]
    assert list(kept.take([1, 0])) == [labels[1], labels[0]]


def test_strata_number_the_labels_by_their_names():
    kept = Labels()
    for label in "cabca":
        kept.append(label)
    assert kept.strata().tolist() == [2, 0, 1, 2, 0]
