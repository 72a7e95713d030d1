"""What a model without pretraining reaches on the same split: TF-IDF with a linear model, the most frequent tag.

Called by `quality`.
"""

from collections import Counter, defaultdict

from bench.materials import Row


def floor(objective: str, train: list[Row], test: list[Row]) -> float:
    """The task's metric on the test rows: accuracy, Pearson's r, or the share of right tags."""
    return {"classification": _classes, "regression": _numbers, "tokenClassification": _tags}[objective](
        train, test
    )


def _column(rows: list[Row], name: str) -> list:
    return [row[name] for row in rows]


def _vectorizer():
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)


def _classes(train: list[Row], test: list[Row]) -> float:
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    model = make_pipeline(_vectorizer(), LinearSVC(C=1.0))
    model.fit(_column(train, "text"), _column(train, "label"))
    return float(model.score(_column(test, "text"), _column(test, "label")))


def _numbers(train: list[Row], test: list[Row]) -> float:
    import numpy as np
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(_vectorizer(), Ridge(alpha=1.0))
    model.fit(_column(train, "text"), _column(train, "label"))
    return float(np.corrcoef(model.predict(_column(test, "text")), _column(test, "label"))[0, 1])


def _tags(train: list[Row], test: list[Row]) -> float:
    """Every word's most frequent tag; the most frequent of all for unknown words."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in train:
        for word, tag in zip(row["text"], row["label"], strict=True):
            counts[word][tag] += 1
    overall = sum(counts.values(), Counter()).most_common(1)[0][0]
    best = {word: count.most_common(1)[0][0] for word, count in counts.items()}
    pairs = [
        (best.get(w, overall), t) for row in test for w, t in zip(row["text"], row["label"], strict=True)
    ]
    return sum(guess == tag for guess, tag in pairs) / len(pairs)
