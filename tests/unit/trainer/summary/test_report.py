"""The report: what it says, that a user's texts cannot become markup, and that every kind of search has one."""

import re
from html.parser import HTMLParser
from itertools import cycle

import pytest

from finetune_api.run import JobIdentity
from finetune_trainer.summary.report import write_report
from finetune_trainer.summary.values import short_names, shortened, text_of
from finetune_trainer.summary.words import counts, end_message, size, summary
from unit.trainer.summary.searches import BATCH, NAME, RATE, history, trial

JOB = JobIdentity(name="tune", namespace="team")
EVIL = "<script>alert('1')</script> & \"quoted\" $x_1$ $\\frac{1}$ \u8bad\u7ec3 \n _hidden"
ANYTHING = [EVIL, {"lora": {"rank": 4}}, [["query"], ["key"]], True, None, 3, 2.5, "", " ", "1", "_", {}, []]


class Page(HTMLParser):
    """Tags, texts of the paragraphs and cells of the tables."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open, self.paragraphs, self.rows = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.open.append(tag)
        if tag == "p":
            self.paragraphs.append("")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] == "p":
            self.paragraphs[-1] += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def written(folder, *trials, **changes):
    """The page of a search, with its caveats."""
    caveats = write_report(history(*trials, reportDir=str(folder), **changes), JOB)
    return Page((folder / "report.html").read_text()), caveats


def pictures(folder):
    return sorted(path.stem for path in folder.glob("*.png"))


def test_the_page_opens_with_the_result_in_words(tmp_path):
    page, caveats = written(
        tmp_path,
        trial(1, 0.7),
        trial(2, 0.9),
        trial(3, 0.4, "Pruned"),
        trial(4, None, "Failed", message="out of memory"),
        trial(5, 0.3, "Stopped"),
        confirmed=[
            {"number": 2, "runs": 3, "mean": 0.88, "spread": 0.0123},
            {"number": 1, "runs": 1, "mean": 0.7},
        ],
        deviceSeconds=4321,
        savedSeconds=50,
    )
    assert caveats == []
    assert page.paragraphs[:5] == [
        "5 trials by TPE, compared by eval_accuracy (higher is better): 2 succeeded, 1 pruned, 1 failed, 1 stopped.",
        "The best is trial 2 with eval_accuracy 0.9.",
        "Repeated with other seeds: trial 2 has mean 0.88 with standard deviation 0.012 over 3 runs;"
        " trial 1 has mean 0.7 over 1 run.",
        "Training took 4,321 device seconds (1h12m); pruning saved about 50 device seconds.",
        "The search ended: all 5 trials have ended.",
    ]


def test_the_table_has_every_trial_and_marks_the_best(tmp_path):
    failed = trial(3, None, "Failed", message="out of memory", parameters={NAME: "SGD"})
    page, _ = written(tmp_path, trial(1, 0.7), trial(2, 0.91234567), failed)
    start = page.rows.index(
        [
            "trial",
            "state",
            "eval_accuracy",
            "optimizer.learningRate",
            "batchSize",
            "optimizer.name",
            "training time",
            "FineTuneJob",
            "why",
        ]
    )
    assert page.rows[start + 1 :] == [
        ["1", "Succeeded", "0.7", "0.1", "16", "–", "10 s", "tune-1c9d2f7a-t001", ""],
        ["★ 2", "Succeeded", "0.9123", "0.01", "32", "–", "20 s", "tune-1c9d2f7a-t002", ""],
        ["3", "Failed", "–", "–", "–", "SGD", "30 s", "tune-1c9d2f7a-t003", "out of memory"],
    ]
    assert page.rows[:start] == [[BATCH, "32"], [RATE, "0.01"]]


def test_texts_of_a_user_are_no_markup(tmp_path):
    evil = {
        "parameters": {RATE: EVIL, f"training.{EVIL}": [EVIL]},
        "name": EVIL,
        "message": EVIL,
    }
    page, caveats = written(tmp_path, trial(1, 0.7, **evil), trial(2, None, "Failed", **evil), end=EVIL)
    assert caveats == []
    text = (tmp_path / "report.html").read_text()
    assert "<script" not in text
    assert set(page.tags) == {
        *("html", "head", "meta", "title", "style", "body"),
        *("h1", "h2", "p", "div", "table", "tr", "th", "td", "img"),
    }
    assert [row[-1] for row in page.rows[-2:]] == [EVIL, EVIL]
    assert f"The search ended: {EVIL}." in page.paragraphs


def test_the_page_is_one_file_that_loads_nothing(tmp_path):
    page, _ = written(tmp_path, trial(1, 0.7), trial(2, 0.9))
    sources = [value for name, value in page.attributes if name in ("src", "href")]
    assert len(sources) == 3  # importances need ten trials
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert ("content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in page.attributes
    assert not re.search("url\\(|@import", (tmp_path / "report.html").read_text())
    assert len([1 for name, value in page.attributes if name == "alt" and value]) == 3


def test_what_is_there_already_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    trials = [trial(1, 0.7), trial(2, 0.9)]
    written(tmp_path, *trials)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    written(tmp_path, *trials)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    written(tmp_path, *trials, trial(3, 0.95))
    assert (tmp_path / "report.html").stat().st_mtime_ns != before[tmp_path / "report.html"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


ALL = ["history", "importances", "learning-curves", "parallel"]
SIXTEEN = {f"training.field{number}": number for number in range(16)}


@pytest.mark.parametrize(
    ("trials", "drawn", "says"),
    [
        ([], [], "There are no trials."),
        ([trial(1, 0.7)], ALL[::2][:1] + ALL[2:], "Importances need at least 10 successful trials"),
        ([trial(1, None, "Failed", parameters={})], ["history"], "No trial has values of searched fields."),
        ([trial(1, None, "Failed")], ["history"], "No trial has a value."),
        ([trial(1, 0.7, evaluations=[])], ["history", "parallel"], "No trial reported an evaluation."),
        ([trial(n, 0.5) for n in range(1, 4)], ["history", "learning-curves", "parallel"], "trial 1 with"),
        ([trial(n, -1e300 * n) for n in range(1, 4)], ["history", "learning-curves", "parallel"], "-1e+300"),
        (
            [trial(n, 0.5 + n / 9, parameters=SIXTEEN | {RATE: n}) for n in range(1, 3)],
            ["history", "learning-curves", "parallel"],
            "2 trials by TPE",
        ),
    ],
    ids=["none", "one", "no-values", "no-value", "no-evaluations", "equal", "huge", "sixteen"],
)
def test_every_search_has_a_report(tmp_path, trials, drawn, says):
    page, caveats = written(tmp_path, *trials)
    assert caveats == []
    assert pictures(tmp_path) == sorted(drawn)
    assert any(says in paragraph for paragraph in page.paragraphs)


@pytest.mark.parametrize("metric", ["accuracy", "loss", "perplexity", "r2"])
def test_999_trials_of_every_kind_have_a_report(tmp_path, metric):
    values, states = cycle(ANYTHING), cycle(["Succeeded", "Succeeded", "Pruned", "Failed", "Stopped"])
    trials = []
    for number in range(1, 1000):
        parameters = {RATE: 10 ** -(number % 7), NAME: next(values), BATCH: 2 ** (number % 5)}
        state, applies = next(states), number % 3
        value = None if state == "Failed" and number % 2 else (number * 37 % 101) / 100
        value = 1e9 if number == 500 else value
        trials.append(trial(number, value, state, parameters=dict(list(parameters.items())[: 1 + applies])))
    page, caveats = written(tmp_path, *trials, metric=metric, best=1, importances={RATE: 0.6, NAME: 0.4})
    assert caveats == []
    assert pictures(tmp_path) == ALL
    assert [row[0] for row in page.rows[-999:]] == ["★ 1", *map(str, range(2, 1000))]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.14159e-5, "3.142e-05"),
        (100000, "100000"),
        ("AdamW", "AdamW"),
        ("1", '"1"'),
        ("null", '"null"'),
        ("", '""'),
        ("a\n b", "a b"),
        (True, "true"),
        (None, "null"),
        ({"lora": {"rank": 4}}, '{"lora": {"rank": 4}}'),
        (["é"], '["é"]'),
    ],
)
def test_values_are_written_so_that_none_looks_like_another(value, text):
    assert text_of(value) == text


def test_names_of_fields_are_short_where_they_stay_different():
    assert short_names([RATE, "training.epochs", "model.dropout", "training.dropout"]) == {
        RATE: "optimizer.learningRate",
        "training.epochs": "epochs",
        "model.dropout": "model.dropout",
        "training.dropout": "training.dropout",
    }


def test_a_long_value_keeps_both_ends():
    assert [shortened(text, 7) for text in ("1234567", "12345678")] == ["1234567", "123…678"]


def test_the_last_message_has_the_mean_and_not_too_many_values():
    made = history(
        trial(1, 0.71234567, parameters={f"training.field{n}": "x" * 80 for n in range(16)}),
        confirmed=[{"number": 1, "runs": 2, "mean": 0.7}],
    )
    assert end_message(made).startswith(
        "trial 1 of 1 is the best: eval_accuracy 0.7123, mean 0.7 with training."
    )
    assert len(end_message(made)) < 500
    assert end_message(made).endswith("…")


def test_counts_and_sizes():
    assert counts(history(trial(1, 0.5), trial(2, 0.5, "Pruned"), trial(3, 0.6))) == "2 succeeded, 1 pruned"
    assert [size(n) for n in (0, 999, 1000, 12_345_678, 5 * 10**13)] == [
        "0 bytes",
        "999 bytes",
        "1 kB",
        "12.3 MB",
        "50 TB",
    ]
    assert summary(history(trial(1, None, "Failed")))[1] == "No trial has a model, so there is no best one."


def test_trials_that_had_no_room_in_the_file_are_said():
    found = history(trial(1, 0.9), trial(2, 0.8), trialsDropped=7)
    assert summary(found)[0].startswith("9 trials by ")
    assert "no room for 7 older ones; of the others: 2 succeeded." in summary(found)[0]
    assert " of 9 is the best" in end_message(found)
