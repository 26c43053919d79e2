"""Reference implementations of the losses: float64 loops over the pixels, as in the formulas, without code of kseg.

Each takes logits [B, H, W, C], label [B, H, W] and weights [C], and returns a float.
"""

import math

import numpy as np

IGNORED = 255


def softmax(logits):
    e = np.exp(logits.astype("float64") - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def pixels(label):
    """Returns the indices of the counted pixels."""
    return [index for index in np.ndindex(label.shape) if label[index] != IGNORED]


def mean(pairs):
    """Returns the weighted mean of (weight, value) pairs; 0 if all weights are 0."""
    total = sum(weight for weight, _ in pairs)
    return sum(weight * value for weight, value in pairs) / total if total else 0.0


def surprise(p, label, index, smoothing=0.0):
    own = -math.log(p[index][label[index]])
    return (1 - smoothing) * own + smoothing * np.mean([-math.log(x) for x in p[index]])


def cross_entropy(logits, label, weights, label_smoothing=0.0):
    p = softmax(logits)
    return mean([(weights[label[i]], surprise(p, label, i, label_smoothing)) for i in pixels(label)])


def focal(logits, label, weights, gamma=2.0):
    p = softmax(logits)
    return mean([(weights[label[i]], (1 - p[i][label[i]]) ** gamma * surprise(p, label, i)) for i in pixels(label)])


def ohem(logits, label, weights, keep=0.25, threshold=0.0, label_smoothing=0.0):
    p = softmax(logits)
    counted = sorted((i for i in pixels(label) if weights[label[i]] > 0), key=lambda i: p[i][label[i]])
    places = math.ceil(round(keep * len(counted), 9))
    kept = [i for place, i in enumerate(counted) if place < places or p[i][label[i]] < threshold]
    return mean([(weights[label[i]], surprise(p, label, i, label_smoothing)) for i in kept])


def over_images(loss, logits, label, per_image):
    """Returns loss(p, label) of the whole batch, or the mean over the images with a counted pixel."""
    p = softmax(logits)
    if not per_image:
        return loss(p, label)
    return mean([(1, loss(p[b : b + 1], label[b : b + 1])) for b in range(len(p)) if (label[b] != IGNORED).any()])


def tversky(logits, label, weights, alpha=0.3, beta=0.7, gamma=1.0, smooth=0.0, log=False, per_image=False):
    def loss(p, label):
        terms = []
        for c in range(p.shape[-1]):
            tp = fp = fn = 0.0
            for i in pixels(label):
                if label[i] == c:
                    tp, fn = tp + p[i][c], fn + 1 - p[i][c]
                else:
                    fp += p[i][c]
            if not any(label[i] == c for i in pixels(label)):
                terms.append((weights[c], 0.0))
            else:
                score = (tp + smooth) / (tp + alpha * fp + beta * fn + smooth)
                terms.append((weights[c], -math.log(score) if log else 1 - score))
        return mean(terms) ** gamma

    return over_images(loss, logits, label, per_image)


def dice(logits, label, weights, **options):
    return tversky(logits, label, weights, alpha=0.5, beta=0.5, **options)


def jaccard(logits, label, weights, **options):
    return tversky(logits, label, weights, alpha=1.0, beta=1.0, **options)


def lovasz(logits, label, weights, per_image=False):
    """The Lovasz extension of the Jaccard loss: sum_k error_k (J({1..k}) - J({1..k-1})) (Berman et al. 2018, equations 8, 9)."""

    def jaccard_loss(wrong, inside):
        return len(wrong) / len(wrong | inside)

    def loss(p, label):
        terms = []
        for c in range(p.shape[-1]):
            inside = {i for i in pixels(label) if label[i] == c}
            if not inside:
                continue
            errors = {i: 1 - p[i][c] if i in inside else p[i][c] for i in pixels(label)}
            total, wrong = 0.0, set()
            for i in sorted(errors, key=lambda i: -errors[i]):
                before = jaccard_loss(wrong, inside)
                wrong.add(i)
                total += errors[i] * (jaccard_loss(wrong, inside) - before)
            terms.append((weights[c], total))
        return mean(terms)

    return over_images(loss, logits, label, per_image)


def boundary(logits, label, weights, width=3, tolerance=5, per_image=False):
    """Bokhovkin and Burnaev 2019, equations 1 to 7."""

    def loss(p, label):
        counted = set(pixels(label))

        def pooled(values, side):
            result = {}
            for b, y, x in counted:
                reach = range(-(side // 2), side // 2 + 1)
                near = [(b, y + dy, x + dx) for dy in reach for dx in reach]
                result[b, y, x] = max(values[i] for i in near if i in counted)
            return result

        def edge(values):
            inverse = {i: 1 - values[i] for i in counted}
            widened = pooled(inverse, width)
            return {i: widened[i] - inverse[i] for i in counted}

        terms = []
        for c in range(p.shape[-1]):
            of_p, of_y = edge({i: p[i][c] for i in counted}), edge({i: float(label[i] == c) for i in counted})
            if not any(of_y.values()):
                continue
            near_p, near_y = pooled(of_p, tolerance), pooled(of_y, tolerance)
            precision = sum(of_p[i] * near_y[i] for i in counted) / sum(of_p.values())
            recall = sum(of_y[i] * near_p[i] for i in counted) / sum(of_y.values())
            terms.append((weights[c], 1 - 2 * precision * recall / (precision + recall)))
        return mean(terms)

    return over_images(loss, logits, label, per_image)
