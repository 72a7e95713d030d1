"""Names of classes in the schema of Parquet and Arrow files: ids become names, in the schema's order."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from finetune_api.run import ExitCode
from finetune_trainer.config import read_config
from finetune_trainer.data.class_labels import class_names
from finetune_trainer.data.dataset import read_dataset
from finetune_trainer.errors import DataError
from finetune_trainer.reporting.recorder import Recorder
from unit.trainer.logs import messages
from unit.trainer.tiny import reviews, write_jsonl

NAMES = ["pos", "unsure", "neg"]
CLASS_LABEL = {"names": NAMES, "_type": "ClassLabel"}


def table(rows, features):
    """As `datasets` writes it: integers, and their names in the metadata of the schema."""
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pyarrow.Table.from_pylist(rows).replace_schema_metadata(metadata)


def parquet(path, rows, **features):
    pyarrow.parquet.write_table(table(rows, features), path)
    return str(path)


def arrow(path, rows, **features):
    written = table(rows, features)
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, written.schema) as writer:
        writer.write_table(written)
    return str(path)


def by_id(rows):
    return [{"text": row["text"], "label": NAMES.index(row["label"])} for row in rows]


def read(made, **dataset):
    return read_dataset(read_config(made.changed({"dataset": dataset}).write(), {}), Recorder())


@pytest.mark.parametrize("write", [parquet, arrow])
def test_a_model_of_ids_predicts_names_in_the_order_of_the_schema(make_job, tmp_path, write):
    """The names are not in the order of the alphabet, and one of them has no row."""
    path = tmp_path / f"train.{write.__name__}"
    test = write_jsonl(tmp_path / "test.jsonl", reviews(40, start=500))
    train = {"path": write(path, by_id(reviews(160)), label=CLASS_LABEL), "uri": None}
    made = make_job(dataset={"train": train, "test": {"path": str(test)}}, training={"epochs": 4})
    assert made.run() == ExitCode.DONE
    config = json.loads((made.model_dir / "config.json").read_text())
    assert config["id2label"] == {"0": "pos", "1": "unsure", "2": "neg"}
    assert made.report.model.metrics["test_accuracy"] > 0.95

    from transformers import pipeline

    classify = pipeline("text-classification", model=str(made.model_dir))
    found = [classify(row["text"])[0]["label"] == row["label"] for row in reviews(40, start=500)]
    assert sum(found) / 40 == made.report.model.metrics["test_accuracy"]


def test_the_log_names_the_classes_and_the_one_without_rows(make_job, tmp_path):
    said, path = messages(), tmp_path / "a.parquet"
    found = read(
        make_job(), train={"path": parquet(path, by_id(reviews(60)), label=CLASS_LABEL), "uri": None}
    )
    assert found.objective.labels == NAMES
    assert f"{path}: the schema names the labels: pos, unsure, neg" in said
    assert any("no training row has the label unsure" in line for line in said)


def test_minus_one_is_no_label_where_the_schema_has_names(make_job, tmp_path):
    rows = by_id(reviews(60))
    rows[4]["label"] = -1
    train = {"path": parquet(tmp_path / "a.parquet", rows, label=CLASS_LABEL), "uri": None}
    with pytest.raises(DataError) as caught:
        read(make_job(), train=train)
    assert caught.value.message.endswith(
        "a.parquet, row 5, column label has the label -1, which means 'no label' in Hugging Face datasets; remove the"
        " row"
    )
    found = read(make_job(), train=train, maxInvalidRows="1")
    assert found.train.resolved.invalid_rows == 1
    assert found.objective.labels == NAMES


@pytest.mark.parametrize(
    ("label", "why"),
    [
        (3, "has the label 3, but the file's schema has names for 0 to 2 only"),
        (-2, "has the label -2, but the file's schema has names for 0 to 2 only"),
        (-100, "has the label -100, which means 'ignored' in transformers"),
        (None, "is not a label but null"),
    ],
)
def test_an_id_without_a_name_is_refused(make_job, tmp_path, label, why):
    rows = by_id(reviews(60))
    rows[4]["label"] = label
    train = {"path": parquet(tmp_path / "a.parquet", rows, label=CLASS_LABEL), "uri": None}
    with pytest.raises(DataError, match=rf"row 5, column label {why}"):
        read(make_job(), train=train)


def test_two_classes_of_one_name_are_not_merged(make_job, tmp_path):
    twice = {"names": ["pos", "neg", "pos"], "_type": "ClassLabel"}
    path = parquet(tmp_path / "a.parquet", by_id(reviews(60)), label=twice)
    with pytest.raises(DataError, match=r"a\.parquet names several classes 'pos' in its schema") as caught:
        read(make_job(), train={"path": path, "uri": None})
    assert caught.value.place.file == path
    numbers = make_job(objective={"regression": {}})
    assert read(numbers, train={"path": path, "uri": None}).train.rows


def test_each_file_is_read_by_its_own_names(make_job, tmp_path):
    """Validation rows with the names in another order, and test rows with names as texts."""
    rows = reviews(60)
    other = ["neg", "pos", "unsure"]
    swapped = [{"text": row["text"], "label": other.index(row["label"])} for row in rows[:20]]
    found = read(
        make_job(),
        train={"path": parquet(tmp_path / "a.parquet", by_id(rows), label=CLASS_LABEL), "uri": None},
        split=None,
        validation={
            "path": arrow(tmp_path / "b.arrow", swapped, label={"names": other, "_type": "ClassLabel"})
        },
        test={"path": str(write_jsonl(tmp_path / "c.jsonl", rows[20:30]))},
    )
    assert [row.label for row in found.validation.rows] == [row["label"] for row in rows[:20]]
    assert [row.label for row in found.test.rows] == [row["label"] for row in rows[20:30]]


def test_ids_in_a_validation_file_without_names_are_refused(make_job, tmp_path):
    train = {"path": parquet(tmp_path / "a.parquet", by_id(reviews(60)), label=CLASS_LABEL), "uri": None}
    ids = write_jsonl(tmp_path / "b.jsonl", by_id(reviews(9)))
    with pytest.raises(DataError) as caught:
        read(make_job(), train=train, split=None, validation={"path": str(ids)})
    assert f"{ids}, row 1, column label has the label " in caught.value.message
    assert ", which is not one of pos, unsure, neg, the class names in the schema of" in caught.value.message
    assert caught.value.message.endswith("a.parquet; write labels by these names")


def test_labels_of_the_spec_that_are_ids_are_refused_with_the_name(make_job, tmp_path):
    train = {"path": parquet(tmp_path / "a.parquet", by_id(reviews(60)), label=CLASS_LABEL), "uri": None}
    made = make_job(objective={"classification": {"labels": ["0", "1", "2"]}})
    with pytest.raises(DataError, match=r"not one of 0, 1, 2 \(the file has \d, which its schema names so\)"):
        read(made, train=train)


@pytest.mark.parametrize(
    "feature",
    [
        {"feature": {"names": ["O", "GOOD", "BAD"], "_type": "ClassLabel"}, "_type": "List"},
        {
            "feature": {"names": ["O", "GOOD", "BAD"], "_type": "ClassLabel"},
            "length": -1,
            "_type": "Sequence",
        },
    ],
)
def test_lists_of_ids_are_the_labels_of_words_and_minus_100_is_ignored(make_job, tmp_path, feature):
    names = ["O", "GOOD", "BAD"]
    rows = [{"text": row["words"], "label": [names.index(tag) for tag in row["tags"]]} for row in reviews(40)]
    rows[0]["label"][0] = -100
    path = parquet(tmp_path / "a.parquet", rows, label=feature)
    found = read(make_job(objective={"tokenClassification": {}}), train={"path": path, "uri": None})
    assert found.objective.labels == names
    kept = {row.line: row.label for part in (found.train, found.validation) for row in part.rows}
    assert kept[1] == ("-100", *reviews(1)[0]["tags"][1:])
    assert [kept[number + 1] for number in range(1, 40)] == [tuple(row["tags"]) for row in reviews(40)[1:]]
    rows[3]["label"][0] = -1
    path = parquet(tmp_path / "a.parquet", rows, label=feature)
    with pytest.raises(DataError, match="row 4, column label has the label -1, which means 'no label'"):
        read(make_job(objective={"tokenClassification": {}}), train={"path": path, "uri": None})


def test_lists_of_ids_are_several_labels(make_job, tmp_path):
    names = ["music", "film", "actor"]
    rows = [
        {"text": row["text"], "label": [names.index(each) for each in row["topics"]]} for row in reviews(40)
    ]
    feature = {"feature": {"names": names, "_type": "ClassLabel"}, "_type": "List"}
    path = parquet(tmp_path / "a.parquet", rows, label=feature)
    made = make_job(objective={"classification": {"multiLabel": True}})
    found = read(made, train={"path": path, "uri": None})
    assert found.objective.labels == names
    kept = {row.line: row.label for part in (found.train, found.validation) for row in part.rows}
    assert [kept[number + 1] for number in range(40)] == [tuple(row["topics"]) for row in reviews(40)]


def test_a_regression_learns_the_ids_and_minus_one_is_no_number(make_job, tmp_path):
    rows = by_id(reviews(40))
    path = parquet(tmp_path / "a.parquet", rows, label=CLASS_LABEL)
    made = make_job(objective={"regression": {}})
    found = read(made, train={"path": path, "uri": None})
    kept = {row.line: row.label for part in (found.train, found.validation) for row in part.rows}
    assert [kept[number + 1] for number in range(40)] == [float(row["label"]) for row in rows]
    rows[2]["label"] = -1
    path = parquet(tmp_path / "a.parquet", rows, label=CLASS_LABEL)
    with pytest.raises(DataError, match="row 3, column label has the label -1"):
        read(made, train={"path": path, "uri": None})


@pytest.mark.parametrize(
    ("kind", "metadata"),
    [
        (pyarrow.int64(), None),
        (pyarrow.int64(), {"huggingface": "no json"}),
        (pyarrow.int64(), {"huggingface": "[]"}),
        (pyarrow.int64(), {"huggingface": '{"info": {"features": null}}'}),
        (pyarrow.int64(), {"huggingface": '{"info": {"features": {"label": {"_type": "Value"}}}}'}),
        (pyarrow.int64(), {"huggingface": '{"info": {"features": {"other": {"names": ["a"]}}}}'}),
        (pyarrow.string(), {"huggingface": json.dumps({"info": {"features": {"label": CLASS_LABEL}}})}),
    ],
)
def test_other_metadata_and_columns_of_texts_have_no_names(kind, metadata):
    assert class_names(pyarrow.schema([("label", kind)], metadata), "label") == ()
    assert class_names(pyarrow.schema([("text", kind)], metadata), "label") == ()


def test_what_datasets_writes_is_read_with_its_names(make_job, tmp_path, monkeypatch):
    """Parquet and a folder of save_to_disk, written by the library itself."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=NAMES)}
    )
    rows = by_id(reviews(60))
    columns = {name: [row[name] for row in rows] for name in ("text", "label")}
    written = datasets.Dataset.from_dict(columns, features=features)
    written.to_parquet(tmp_path / "a.parquet")
    written.save_to_disk(tmp_path / "saved", num_shards=3)
    datasets.DatasetDict(train=written).save_to_disk(tmp_path / "dict")
    for path in ("a.parquet", "saved", "dict/train"):
        found = read(make_job(), train={"path": str(tmp_path / path), "uri": None})
        assert found.objective.labels == NAMES
        kept = {row.text: row.label for part in (found.train, found.validation) for row in part.rows}
        assert kept == {row["text"]: row["label"] for row in reviews(60)}
