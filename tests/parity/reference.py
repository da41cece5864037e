"""Every formula of the methods in numpy and float64: slow, literal, and written without the package.

Sources: movement pruning (arXiv:2005.07683), block movement pruning (arXiv:2109.04838), hard concrete
(arXiv:1712.01312), CoFi (arXiv:2204.00408), cubic schedule (arXiv:1710.01878), distillation (arXiv:1503.02531).
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TEMPERATURE, LEFT, RIGHT = 2 / 3, -0.1, 1.1


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, dtype=np.float64)))


# Masks of scores


def highest(scores, count: int) -> Array:
    """1 at the `count` highest scores; among equal ones the first."""
    order = sorted(range(scores.size), key=lambda index: (-scores.flat[index], index))
    mask = np.zeros(scores.size)
    mask[order[:count]] = 1
    return mask.reshape(scores.shape)


def topk(scores, density: float) -> Array:
    return highest(scores, round(density * scores.size))


def threshold(scores, cut: float, floor: float = 0.0) -> Array:
    mask = np.asarray(scores > cut, dtype=np.float64)
    survivors = min(int(floor * scores.size) + 1, scores.size) if floor else 0
    return np.maximum(mask, highest(scores, survivors))


def sigmoid_threshold(scores, cut: float, floor: float = 0.0) -> Array:
    return threshold(sigmoid(scores), cut, floor)


def n_of_m(scores, n: int, m: int) -> Array:
    mask = np.zeros(scores.shape)
    for row in range(scores.shape[0]):
        for start in range(0, scores.shape[1], m):
            mask[row, start : start + m] = highest(scores[row, start : start + m], n)
    return mask


def hard_concrete(scores, uniform) -> Array:
    s = sigmoid((np.log(uniform) - np.log(1 - uniform) + scores) / TEMPERATURE)
    return np.clip(s * (RIGHT - LEFT) + LEFT, 0, 1)


def hard_concrete_in_evaluation(scores) -> Array:
    return np.clip(sigmoid(scores) * (RIGHT - LEFT) + LEFT, 0, 1)


# Scores and the weights that they cover; `kind` is a granularity as it is written in files


def score_shape(kind: str, shape: tuple[int, int]) -> tuple[int, ...]:
    out, inputs = shape
    name, *details = kind.split(":")
    if name == "block":
        height, width = map(int, details[0].split("x"))
        return out // height, inputs // width
    if name == "rows_columns":
        return (out + inputs,)
    if name == "element" or name.isdigit():
        return shape
    axis, sizes = details
    return ((out if axis == "rows" else inputs) // sum(map(int, sizes.split("+"))),)


def owner(kind: str, shape: tuple[int, int], row: int, column: int) -> tuple[int, ...]:
    """Index of the score that decides on one weight (rows x columns has two owners: see `expand`)."""
    name, *details = kind.split(":")
    if name == "block":
        height, width = map(int, details[0].split("x"))
        return row // height, column // width
    if name == "element" or name.isdigit():
        return row, column
    axis, sizes = details
    line, (count,) = row if axis == "rows" else column, score_shape(kind, shape)
    for size in map(int, sizes.split("+")):  # several matrices, one behind the other
        if line < count * size:
            return (line // size,)
        line -= count * size
    raise IndexError(row, column)


def expand(mask, kind: str, shape: tuple[int, int]) -> Array:
    full = np.zeros(shape)
    for row, column in np.ndindex(*shape):
        if kind == "rows_columns":
            full[row, column] = mask[row] * mask[shape[0] + column]
        else:
            full[row, column] = mask[owner(kind, shape, row, column)]
    return full


def sum_over_scores(values, kind: str) -> Array:
    """For every score the sum of `values` over the weights that share it."""
    shape = values.shape
    total = np.zeros(score_shape(kind, shape))
    for row, column in np.ndindex(*shape):
        if kind == "rows_columns":
            total[row] += values[row, column]
            total[shape[0] + column] += values[row, column]
        else:
            total[owner(kind, shape, row, column)] += values[row, column]
    return total


def mean_over_scores(values, kind: str) -> Array:
    return sum_over_scores(values, kind) / sum_over_scores(np.ones(values.shape), kind)


def bias_mask(full) -> Array:
    """A bias entry is masked where its whole output row is."""
    return np.asarray(full.any(axis=1), dtype=np.float64)


# Masked layer and movement


def linear(x, weight, bias) -> Array:
    return np.asarray(x @ weight.T + bias)


def gradient_of_masked_weight(x, upstream) -> Array:
    """dL/dW' of y = x W'^T, where dL/dy = `upstream`."""
    return upstream.T @ x


def movement(x, upstream, weight, kind: str) -> Array:
    """dL/dS = dL/dW' * W, summed over the weights that share the score."""
    return sum_over_scores(gradient_of_masked_weight(x, upstream) * weight, kind)


# Schedules


def cubic(step: int, total: int, first: float, last: float) -> float:
    """Progress, 0 to 1: nothing in the first `first` steps, done before the last `last` ones."""
    t = min(max((step - first) / (total - first - last), 0.0), 1.0)
    return 1 - (1 - t) ** 3


def scheduled(start: float, end: float, progress):
    return end + (start - end) * (1 - progress)


# Costs


def l1(scores) -> float:
    return float(sigmoid(scores).mean())


def l0(scores) -> float:
    return float(sigmoid(scores - TEMPERATURE * np.log(-LEFT / RIGHT)).mean())


def lagrangian(multipliers, density: float, target: float) -> float:
    return float(multipliers[0] * (density - target) + multipliers[1] * (density - target) ** 2)


# Distillation


def log_softmax(logits) -> Array:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def distillation(student, teacher, temperature: float) -> float:
    """T^2 KL(teacher || student), mean over the batch."""
    p, q = log_softmax(teacher / temperature), log_softmax(student / temperature)
    return float(temperature**2 * (np.exp(p) * (p - q)).sum(axis=-1).mean())


def hidden_states(student, teacher, attended=None) -> float:
    """Mean squared error of every layer over the attended tokens, mean over the layers."""
    errors = []
    for mine, other in zip(student, teacher, strict=True):
        squared = (mine - other) ** 2
        errors.append(squared.mean() if attended is None else squared[attended.astype(bool)].mean())
    return float(np.mean(errors))
