"""Slow versions, written from the equations with loops, that the tests compare `lib` with."""

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import permutations

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as TF

MASK = 2**64 - 1


def count_votes(votes: np.ndarray, tile: int, n_classes: int) -> list[int]:
    counts = [0] * n_classes
    for view in range(len(votes)):
        counts[votes[view, tile]] += 1
    return counts


def vote_entropy(votes: np.ndarray, n_classes: int) -> list[float]:
    """H = −Σ_c h_c log h_c of each tile."""
    found = []
    for tile in range(votes.shape[1]):
        shares = [n / len(votes) for n in count_votes(votes, tile, n_classes)]
        found.append(-math.fsum(h * math.log(h) for h in shares if h > 0))
    return found


def certainty(counts: Sequence[int]) -> int:
    """Π n^n, exact. H = log V − (1/V) Σ n log n, so a larger product means a lower entropy."""
    return math.prod(n**n for n in counts)


def consensus_ranking(votes: np.ndarray, ties: Sequence, n_classes: int) -> list[int]:
    """Tiles by falling certainty, then by their entry of `ties`; no rounding is involved."""
    certain = [certainty(count_votes(votes, t, n_classes)) for t in range(votes.shape[1])]
    return sorted(range(votes.shape[1]), key=lambda tile: (-certain[tile], ties[tile]))


def multi_view_consensus(
    votes: np.ndarray,
    ties: Sequence,
    prompt_labels: np.ndarray,
    n_classes: int,
    keep_ratio: float,
    quota: str,
    among: np.ndarray,
) -> np.ndarray:
    """Walk down the ranking and take tiles until the quota is full."""
    ranking = consensus_ranking(votes, ties, n_classes)
    pools: dict[int, list[int]] = {}
    for tile in ranking:
        if among[tile]:
            pools.setdefault(prompt_labels[tile] if quota == "class" else 0, []).append(tile)
    kept = np.zeros(votes.shape[1], bool)
    for pool in pools.values():
        exact = Fraction(str(keep_ratio)) * len(pool)  # as it is written, not as it is stored
        for tile in pool[: max(1, math.floor(exact))]:
            kept[tile] = True
    return kept


def best_agreement(
    clusters: np.ndarray, labels: np.ndarray, n_classes: int
) -> tuple[int, list[tuple[int, ...]]]:
    """Most tiles that any assignment of clusters to distinct classes makes agree, and all such."""
    found: dict[int, list[tuple[int, ...]]] = {}
    for classes in permutations(range(n_classes), int(clusters.max()) + 1):
        agree = sum(classes[k] == c for k, c in zip(clusters, labels, strict=True))
        found.setdefault(agree, []).append(classes)
    return max(found), found[max(found)]


def prompt_feature_consensus(
    clusters: np.ndarray, prompt_labels: np.ndarray, n_classes: int
) -> np.ndarray | None:
    """Tiles whose cluster's class is their prompt label; None where the best matching is a tie."""
    _, best = best_agreement(clusters, prompt_labels, n_classes)
    if len(best) > 1:
        return None
    matched = best[0]
    return np.array([matched[k] == c for k, c in zip(clusters, prompt_labels, strict=True)])


def calibration_error(probs: np.ndarray, labels: np.ndarray, bins: int) -> float:
    """Σ_b n_b/N · |accuracy_b − confidence_b|, bin b holds confidences in (b/bins, (b+1)/bins]."""
    total = 0.0
    for b in range(bins):
        inside = [p for p in range(len(probs)) if b / bins < probs[p].max() <= (b + 1) / bins]
        if inside:
            accuracy = sum(probs[p].argmax() == labels[p] for p in inside) / len(inside)
            confidence = sum(probs[p].max() for p in inside) / len(inside)
            total += len(inside) / len(probs) * abs(accuracy - confidence)
    return total


def tile_draw(tile: int, number: int, n: int, seed: int, stream: int) -> float:
    """SplitMix64 in whole numbers: draw `number` of the `n` draws of one tile."""

    def mix(x: int) -> int:
        x = (x + 0x9E3779B97F4A7C15) & MASK
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
        return x ^ (x >> 31)

    start = mix((mix(seed) + stream) & MASK)
    return (mix(mix((start + tile * n + number) & MASK)) >> 11) / 2**53


def orientations(image: np.ndarray, size: int) -> dict[bytes, tuple[int, int, int, bool]]:
    """Every crop of `size` in all 8 orientations: its bytes → (top, left, quarter turns, flip)."""
    found = {}
    for top in range(image.shape[0] - size + 1):
        for left in range(image.shape[1] - size + 1):
            crop = image[top : top + size, left : left + size]
            for turns in range(4):
                turned = np.rot90(crop, turns)
                found[turned.tobytes()] = (top, left, turns, False)
                found[turned[:, ::-1].tobytes()] = (top, left, turns, True)
    return found


def jittered(
    pixels: torch.Tensor, brightness: float, contrast: float, saturation: float
) -> torch.Tensor:
    """Torchvision's colour operations one after the other on a tile [3, H, W] in 0 … 1."""
    pixels = TF.adjust_brightness(pixels, brightness)
    pixels = TF.adjust_contrast(pixels, contrast)
    return TF.adjust_saturation(pixels, saturation)


def square_tile(image: Image.Image, size: int) -> np.ndarray:
    """Shorter side resized to `size` (bicubic), centre crop."""
    image = image.convert("RGB")
    width, height = image.size
    if width < height:
        width, height = size, round(height * size / width)
    else:
        width, height = round(width * size / height), size
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image)[top : top + size, left : left + size]


def softmax(logits: Sequence[float]) -> list[float]:
    powers = [math.exp(value - max(logits)) for value in logits]
    return [power / sum(powers) for power in powers]


def cross_supervision(own: list, partner: list, threshold: float) -> float:
    """1/B Σ_i 1[max_c p_c(partner) > γ] · CE(own, argmax_c p_c(partner))."""
    total = 0.0
    for logits, other in zip(own, partner, strict=True):
        probs = softmax(other)
        if max(probs) > threshold:
            total -= math.log(softmax(logits)[probs.index(max(probs))])
    return total / len(own)


def cross_entropy(logits: list, labels: list[int]) -> float:
    losses = [-math.log(softmax(own)[y]) for own, y in zip(logits, labels, strict=True)]
    return sum(losses) / len(losses)


def generalised_cross_entropy(logits: list, labels: list[int], q: float) -> float:
    """Mean of (1 − p_y^q) / q."""
    losses = [(1 - softmax(own)[y] ** q) / q for own, y in zip(logits, labels, strict=True)]
    return sum(losses) / len(losses)


def _likeness(u: Sequence[float], v: Sequence[float], temperature: float) -> float:
    """e^{cos(u, v) / T}."""
    product = math.fsum(x * y for x, y in zip(u, v, strict=True))
    return math.exp(product / (math.hypot(*u) * math.hypot(*v)) / temperature)


def class_contrast(a: list, b: list, labels: list[int], temperature: float) -> float:
    """Mean over the tiles i with a label and a tile of another label, s(u, v) = e^{cos(u, v)/T}, of

    −log s(a_i, b_i) / (s(a_i, b_i) + Σ_{j: y_j ≠ y_i} [s(a_i, a_j) + s(b_i, b_j)]).
    """
    found = []
    for i, own in enumerate(labels):
        others = [j for j, other in enumerate(labels) if other not in (own, -1)]
        if own == -1 or not others:
            continue
        same = _likeness(a[i], b[i], temperature)
        apart = 0.0
        for j in others:
            apart += _likeness(a[i], a[j], temperature) + _likeness(b[i], b[j], temperature)
        found.append(-math.log(same / (same + apart)))
    return sum(found) / len(found) if found else 0.0


def class_contrast_public(a: list, b: list, labels: list[int], temperature: float) -> float:
    """The same as the authors' public loop computes it, which is not the formula.

    A tile is held against later ones only (j > i), the last tile of the batch is left out on both
    sides, and the sum is divided by one more than there are terms.
    """
    total, terms = 0.0, 0
    for i in range(len(labels) - 1):
        others = [j for j in range(i + 1, len(labels) - 1) if labels[j] not in (labels[i], -1)]
        if labels[i] == -1 or not others:
            continue
        same = _likeness(a[i], b[i], temperature)
        apart = 0.0
        for j in others:
            apart += _likeness(a[i], a[j], temperature) + _likeness(b[i], b[j], temperature)
        total -= math.log(same / (same + apart))
        terms += 1
    return total / (terms + 1)


def early_learning_regularisation(
    logits: list, labels: list[int], targets: list, rows: list[int], weight: float, momentum: float
) -> float:
    """CE + λ/B Σ_i log(1 − ⟨p_i, t_i⟩), after t ← β t + (1 − β) p in place in `targets`."""
    total = 0.0
    for own, row in zip(logits, rows, strict=True):
        probs = softmax(own)
        targets[row] = [
            momentum * t + (1 - momentum) * p for t, p in zip(targets[row], probs, strict=True)
        ]
        total += math.log(1 - math.fsum(p * t for p, t in zip(probs, targets[row], strict=True)))
    return cross_entropy(logits, labels) + weight * total / len(rows)


def co_teaching(
    a: list, b: list, labels: list[int], forget_rate: float, progress: float, ramp: float
) -> list[float]:
    """Each network's cross-entropy on the tiles of smallest loss of the other."""
    share = 1 - Fraction(str(forget_rate)) * min(Fraction(str(progress)) / Fraction(str(ramp)), 1)
    n = max(1, math.floor(share * len(labels)))
    losses = [
        [-math.log(softmax(own)[y]) for own, y in zip(logits, labels, strict=True)]
        for logits in (a, b)
    ]
    easy = [sorted(range(len(labels)), key=lambda i, own=own: own[i])[:n] for own in losses]
    return [sum(losses[k][i] for i in easy[1 - k]) / n for k in (0, 1)]


def transductive(
    features: np.ndarray, probs: np.ndarray, neighbours: int, start: int, temper: float
) -> np.ndarray:
    """Zero-shot TransCLIP, tile by tile: ten rounds, five updates of z in each, and a last one."""
    n, n_classes = probs.shape
    cosine = features @ features.T
    w = np.zeros((n, n))
    for i in range(n):
        others = sorted((j for j in range(n) if j != i), key=lambda j: -cosine[i, j])
        for j in others[:neighbours]:
            w[i, j] = max(cosine[i, j], 0)
    centres = [
        features[sorted(range(n), key=lambda i: -probs[i, k])[:start]].mean(0)
        for k in range(n_classes)
    ]
    variance = np.full(features.shape[1], 1 / features.shape[1])
    z = probs.copy()
    for turn in range(11):
        for _ in range(5):
            new = np.zeros_like(z)
            for i in range(n):
                for k in range(n_classes):
                    fit = -0.5 * ((features[i] - centres[k]) ** 2 / variance).sum() / temper
                    pull = sum((w[i, j] + w[j, i]) * z[j, k] for j in range(n)) / (2 * neighbours)
                    new[i, k] = math.log(probs[i, k]) + fit + pull
                new[i] = softmax(new[i].tolist())
            z = new
        if turn < 10:
            shares = z / z.sum(0)
            centres = [(shares[:, k : k + 1] * features).sum(0) for k in range(n_classes)]
            variance = np.zeros(features.shape[1])
            for i in range(n):
                for k in range(n_classes):
                    variance += z[i, k] * (features[i] - centres[k]) ** 2 / n
    return z


def nearest_to_centres(features: np.ndarray, clusters: Sequence[int], weights: Sequence) -> list:
    """Of each cluster the row nearest to its weighted mean, that of the largest cluster first."""
    members: dict[int, list[int]] = {}
    for row, cluster in enumerate(clusters):
        members.setdefault(int(cluster), []).append(row)
    found = []
    for rows in members.values():
        total = sum(weights[row] for row in rows)
        centre = sum(weights[row] * features[row] for row in rows) / total
        away = [float(((features[row] - centre) ** 2).sum()) for row in rows]
        found.append((-len(rows), rows[away.index(min(away))]))
    return [row for _, row in sorted(found, key=lambda entry: entry[0])]


def entropy(probs: Sequence[float]) -> float:
    return -math.fsum(p * math.log(p) for p in probs if p > 0)


def disagreement_weights(a: Sequence, b: Sequence) -> list[float]:
    """H(mean) − mean of H of each tile, over the number of tiles predicted to be of its class."""
    means = [[(x + y) / 2 for x, y in zip(p, q, strict=True)] for p, q in zip(a, b, strict=True)]
    classes = [mean.index(max(mean)) for mean in means]
    found = []
    for p, q, mean, predicted in zip(a, b, means, classes, strict=True):
        apart = entropy(mean) - (entropy(p) + entropy(q)) / 2
        found.append(max(apart, 1e-6) / classes.count(predicted))
    return found


def joined_groups(group_of: dict[str, str], pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Groups of tiles, two renamed to the smaller name as long as a pair is in two of them."""
    group_of = dict(group_of)
    changed = True
    while changed:
        changed = False
        for first, second in pairs:
            names = {group_of.get(first), group_of.get(second)}
            if len(names) == 2 and None not in names:
                for tile, group in group_of.items():
                    if group in names:
                        group_of[tile] = min(names)
                changed = True
    return group_of
