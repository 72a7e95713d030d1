"""The evaluation metrics as pure functions of counts or of numbers.

Definitions are scikit-learn's and SciPy's. `f1`, `precision` and `recall` are those of the second label where there
are two labels, and the unweighted mean over the labels (macro) where there are more, or where a row has several.
"""

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
LARGEST_EXPONENT = 709.0
REGRESSION = ("mse", "rmse", "mae", "r2", "pearson", "spearman")


def classification_scores(matrix: npt.NDArray[np.int64]) -> dict[str, float]:
    """From a confusion matrix, true labels in rows. Undefined ratios are 0, as in scikit-learn with zero_division=0.

    A column behind those of the labels counts rows without an answer, which are wrong.
    """
    true, answers, hits = matrix.sum(axis=1), matrix.sum(axis=0), matrix.diagonal()
    predicted, rows = answers[: len(true)], int(matrix.sum())
    precision, recall = _ratio(hits, predicted), _ratio(hits, true)
    f1 = _ratio(2 * hits, true + predicted)
    occurs = (true + predicted) > 0
    accuracy = float(hits.sum()) / rows if rows else math.nan

    def headline(values: Floats) -> float:
        return float(values[1]) if len(values) == 2 else float(values[occurs].mean())

    return {
        "accuracy": accuracy,
        "f1": headline(f1),
        "f1_micro": accuracy,
        "f1_macro": float(f1[occurs].mean()),
        "precision": headline(precision),
        "recall": headline(recall),
        "mcc": _mcc(true.astype(float), answers.astype(float), float(hits.sum()), rows),
    }


def _ratio(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> Floats:
    return np.divide(part, whole, out=np.zeros(len(part), dtype=np.float64), where=whole > 0)


def _mcc(true: Floats, predicted: Floats, hits: float, rows: int) -> float:
    """Matthews correlation for any number of classes (Gorodkin 2004); 0 where a side is constant."""
    covariance = hits * rows - float(true @ predicted[: len(true)])
    spread = (rows**2 - float(predicted @ predicted)) * (rows**2 - float(true @ true))
    return covariance / math.sqrt(spread) if spread > 0 else 0.0


def multi_label_scores(
    hits: npt.NDArray[np.int64],
    true: npt.NDArray[np.int64],
    predicted: npt.NDArray[np.int64],
    rows: int,
    exact: int,
) -> dict[str, float]:
    """From counts by label (labels,), the number of rows and that of the rows whose labels are all right.

    `accuracy` is the share of those rows, `f1_micro` over all decisions; the others, `mcc` too, are means over labels.
    """
    f1 = _ratio(2 * hits, true + predicted)
    return {
        "accuracy": exact / rows if rows else math.nan,
        "f1": float(f1.mean()),
        "f1_micro": float(_ratio(2 * hits.sum(keepdims=True), (true + predicted).sum(keepdims=True))[0]),
        "f1_macro": float(f1.mean()),
        "precision": float(_ratio(hits, predicted).mean()),
        "recall": float(_ratio(hits, true).mean()),
        "mcc": float(_binary_mcc(hits, true, predicted, rows).mean()),
    }


def _binary_mcc(
    hits: npt.NDArray[np.int64], true: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], rows: int
) -> Floats:
    """Matthews correlation (1975) of every label; 0 where a side is constant."""
    spread = np.sqrt((true * (rows - true)).astype(float) * (predicted * (rows - predicted)))
    covariance = (hits * rows - true * predicted).astype(float)
    mcc: Floats = np.divide(covariance, spread, out=np.zeros(len(hits)), where=spread > 0)
    return mcc


def perplexity(loss: float) -> float:
    """exp of the mean cross-entropy a token; infinite where that is too large for a number."""
    return math.inf if loss > LARGEST_EXPONENT else math.exp(loss)


def regression_scores(predictions: Floats, targets: Floats) -> dict[str, float]:
    """From predicted and true numbers, (rows,) or (rows, targets): of several targets, each score's mean over them.

    Correlations of a constant are not defined: NaN. With a prediction that is NaN or infinite nothing is.
    """
    if predictions.ndim == 1:
        return _one_target(predictions, targets)
    columns = [_one_target(p, t) for p, t in zip(predictions.T, targets.T, strict=True)]
    return {name: float(np.mean([scores[name] for scores in columns])) for name in columns[0]}


def _one_target(predictions: Floats, targets: Floats) -> dict[str, float]:
    if not np.isfinite(predictions).all():
        return dict.fromkeys(REGRESSION, math.nan)
    errors = predictions - targets
    mse = float(np.mean(errors**2))
    spread = float(np.sum((targets - targets.mean()) ** 2))
    return {
        "mse": mse,
        "rmse": math.sqrt(mse),
        "mae": float(np.mean(np.abs(errors))),
        "r2": 1 - float(np.sum(errors**2)) / spread if spread > 0 else math.nan,
        "pearson": _pearson(predictions, targets),
        "spearman": _pearson(_ranks(predictions), _ranks(targets)),
    }


def _pearson(left: Floats, right: Floats) -> float:
    a, b = left - left.mean(), right - right.mean()
    norm = math.sqrt(float(a @ a)) * math.sqrt(float(b @ b))
    return float(np.clip(float(a @ b) / norm, -1.0, 1.0)) if norm > 0 else math.nan


def _ranks(values: Floats) -> Floats:
    """Ranks from 1; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + 1 + last) / 2)[inverse]
