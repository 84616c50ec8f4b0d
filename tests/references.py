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
    candidates: np.ndarray,
) -> np.ndarray:
    """Walk down the ranking and take tiles until the quota is full."""
    ranking = consensus_ranking(votes, ties, n_classes)
    pools: dict[int, list[int]] = {}
    for tile in ranking:
        if candidates[tile]:
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


def affinity(features: np.ndarray, neighbours: int) -> np.ndarray:
    """w [N, N]: the cosine of each tile and its nearest others, not below 0; 0 elsewhere."""
    n, cosine = len(features), features @ features.T
    w = np.zeros((n, n))
    for i in range(n):
        others = sorted((j for j in range(n) if j != i), key=lambda j: -cosine[i, j])
        for j in others[:neighbours]:
            w[i, j] = max(cosine[i, j], 0)
    return w


def transductive(
    features: np.ndarray, probs: np.ndarray, neighbours: int, start: int, temper: float
) -> np.ndarray:
    """Zero-shot TransCLIP, tile by tile: ten rounds, five updates of z in each, and a last one."""
    n, n_classes = probs.shape
    w = affinity(features, neighbours)
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


def nearest_to_centres(features: np.ndarray, clusters: Sequence[int]) -> list:
    """Of each cluster the row nearest to its mean, that of the largest cluster first."""
    members: dict[int, list[int]] = {}
    for row, cluster in enumerate(clusters):
        members.setdefault(int(cluster), []).append(row)
    found = []
    for rows in members.values():
        centre = sum(features[row] for row in rows) / len(rows)
        away = [float(((features[row] - centre) ** 2).sum()) for row in rows]
        found.append((-len(rows), rows[away.index(min(away))]))
    return [row for _, row in sorted(found, key=lambda entry: entry[0])]


def entropy(probs: Sequence[float]) -> float:
    return -math.fsum(p * math.log(p) for p in probs if p > 0)


def cluster_lift(clusters: Sequence[int], probs: np.ndarray) -> list[list[float]]:
    """Mean probability of a class in a cluster ÷ its mean in all tiles that have a cluster."""
    inside = [i for i, k in enumerate(clusters) if k != -1]
    found = []
    for k in range(max(clusters) + 1):
        own = [i for i in inside if clusters[i] == k]
        line = []
        for c in range(probs.shape[1]):
            overall = math.fsum(float(probs[i, c]) for i in inside) / len(inside)
            mean = math.fsum(float(probs[i, c]) for i in own) / len(own)
            line.append(mean / overall if overall else 0.0)
        found.append(line)
    return found


def classes_by_lift(lift: np.ndarray) -> list[int]:
    """Every way to give clusters to the classes that are the highest nowhere; the best of them."""
    n_clusters, n_classes = lift.shape
    highest = [max(range(n_classes), key=lambda c, k=k: lift[k, c]) for k in range(n_clusters)]
    missing = [c for c in range(n_classes) if c not in highest]
    if n_clusters < n_classes:
        return highest
    best, found = -math.inf, highest
    for taken in permutations(range(n_clusters), len(missing)):
        classes = list(highest)
        for k, c in zip(taken, missing, strict=True):
            classes[k] = c
        gain = math.fsum(math.log(lift[k, c]) for k, c in zip(taken, missing, strict=True))
        if set(classes) == set(range(n_classes)) and gain > best:
            best, found = gain, classes
    return found


def centred(features: np.ndarray, text: np.ndarray, scale: float) -> list[list[float]]:
    """softmax of s times the cosine between what is left of image and prompt without the means."""
    found = []
    for image in features:
        logits = []
        for prompt in text:
            u = [x - m for x, m in zip(image, features.mean(0), strict=True)]
            v = [x - m for x, m in zip(prompt, text.mean(0), strict=True)]
            dot = math.fsum(x * y for x, y in zip(u, v, strict=True))
            logits.append(scale * dot / (math.hypot(*u) * math.hypot(*v)))
        found.append(softmax(logits))
    return found


def prior_by_em(probs: np.ndarray, rounds: int) -> list[float]:
    """Saerens' EM tile by tile, from an equal prior."""
    n, n_classes = probs.shape
    prior = [1 / n_classes] * n_classes
    for _ in range(rounds):
        total = [0.0] * n_classes
        for i in range(n):
            weighted = [probs[i, c] * prior[c] for c in range(n_classes)]
            total = [t + w / sum(weighted) for t, w in zip(total, weighted, strict=True)]
        prior = [t / n for t in total]
    return prior


def anchored(
    features: np.ndarray,
    text: np.ndarray,
    probs: np.ndarray,
    neighbours: int,
    temper: float,
    anchor: float,
) -> np.ndarray:
    """Transduction with a Gaussian per class, its mean and variances held to those of the prompts.

    The anchor counts as `anchor` tiles of the class, spread as the zero-shot classes are.
    """
    n, n_classes = probs.shape
    w = affinity(features, neighbours)
    spread = sum(
        probs[i, k] * (features[i] - text[k]) ** 2 / n for i in range(n) for k in range(n_classes)
    )
    means, variances, z = list(text), [spread] * n_classes, probs.copy()
    for turn in range(11):
        for _ in range(5):
            new = np.zeros_like(z)
            for i in range(n):
                for k in range(n_classes):
                    fit = ((features[i] - means[k]) ** 2 / variances[k]).sum()
                    fit += np.log(variances[k]).sum()
                    pull = sum((w[i, j] + w[j, i]) * z[j, k] for j in range(n)) / (2 * neighbours)
                    new[i, k] = math.log(probs[i, k]) - 0.5 * fit / temper + pull
                new[i] = softmax(new[i].tolist())
            z = new
        for k in range(n_classes) if turn < 10 else ():
            weight = z[:, k].sum() + anchor
            total = anchor * text[k] + sum(z[i, k] * features[i] for i in range(n))
            means[k] = total / weight
            off = anchor * (spread + (text[k] - means[k]) ** 2)
            off = off + sum(z[i, k] * (features[i] - means[k]) ** 2 for i in range(n))
            variances[k] = off / weight
    return z


def aligned(probs: Sequence[float], marginal: Sequence, mean: Sequence, strength: float) -> list:
    """p · (q/p̄)^α, renormalised."""
    powers = [p * (q / m) ** strength for p, q, m in zip(probs, marginal, mean, strict=True)]
    return [power / sum(powers) for power in powers]


def shrunk_marginal(counts: Sequence, mean: Sequence, pseudo_counts: float) -> list[float]:
    """(n_c + κ p̄_c) / (n + κ)."""
    total = sum(counts) + pseudo_counts
    return [(n + pseudo_counts * p) / total for n, p in zip(counts, mean, strict=True)]


def divergence(members: Sequence[Sequence]) -> float:
    """H(mean) − mean of H of the predictions of one tile."""
    mean = [sum(column) / len(members) for column in zip(*members, strict=True)]
    return entropy(mean) - sum(entropy(member) for member in members) / len(members)


def coverage(
    features: np.ndarray, weights: Sequence, pool: Sequence, centres: Sequence, sigma: float
) -> float:
    """Σ_i u_i max_j k(x_i, x_j), k(x, y) = exp(−‖x − y‖² / σ²) of features with unit length."""
    unit = [list(row / math.hypot(*row)) for row in features.astype(float)]

    def kernel(i: int, j: int) -> float:
        return math.exp(-(math.dist(unit[i], unit[j]) ** 2) / sigma**2)

    return math.fsum(weights[i] * max((kernel(i, j) for j in centres), default=0.0) for i in pool)


def voronoi_counts(features: np.ndarray, labels: Sequence[int], n_classes: int) -> list[float]:
    """Of each class the tiles nearest to its labels, scaled to (Σ w)² / Σ w² labels in all."""
    scale = [float(column.std()) or 1.0 for column in features.T]
    scaled = [(row - features.mean(0)) / scale for row in features]
    weights = {row: 0 for row, label in enumerate(labels) if label >= 0}
    for tile in scaled:
        cosine = {row: float(tile @ scaled[row]) / math.hypot(*scaled[row]) for row in weights}
        weights[max(cosine, key=lambda row: cosine[row])] += 1
    total = sum(weights.values())
    effective = total**2 / sum(weight**2 for weight in weights.values())
    counts = [0.0] * n_classes
    for row, weight in weights.items():
        counts[labels[row]] += effective * weight / total
    return counts


def pooled_score(counts: Sequence[tuple[int, float, float]], score: str) -> float:
    """counts: (class, tiles, right) of each group; a class without tiles has no say."""
    if score == "accuracy":
        return sum(right for *_, right in counts) / sum(n for _, n, _ in counts)
    recalls = []
    for label in sorted({label for label, *_ in counts}):
        n = sum(n for c, n, _ in counts if c == label)
        if n:
            recalls.append(sum(right for c, _, right in counts if c == label) / n)
    return sum(recalls) / len(recalls)


def holm(ps: Sequence[float]) -> list[float]:
    """The k-th smallest of m is multiplied by m − k + 1; none is smaller than one before it."""
    corrected, largest = [0.0] * len(ps), 0.0
    for rank, idx in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        largest = max(largest, min(1.0, ps[idx] * (len(ps) - rank)))
        corrected[idx] = largest
    return corrected


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


def pivotal_distribution(right: Sequence[bool], n: int) -> np.ndarray:
    """P(X = 0 … n) of the right tiles X candidates n drawn from a line by ordered pivotal sampling.

    By going through what can happen: how probable it is that so many right tiles are drawn so far,
    for the tile that waits being a right one and a wrong one; counts of N-ths are whole numbers.
    """
    whole = len(right)
    states = {(0, bool(right[0])): 1.0}  # right tiles drawn, and whether the waiting one is right
    a = n
    for tile in map(bool, right[1:]):
        following: dict[tuple[int, bool], float] = {}
        both = a + n
        for (drawn, waiting), probability in states.items():
            if both < whole:
                steps = [(drawn, waiting, a / both), (drawn, tile, n / both)]
            else:
                rest = 2 * whole - both
                goes = (whole - n) / rest if rest else 0.0
                steps = [(drawn + waiting, tile, goes), (drawn + tile, waiting, 1 - goes)]
            for count, waits, share in steps:
                key = count, waits
                following[key] = following.get(key, 0.0) + probability * share
        states, a = following, both if both < whole else both - whole
    found = np.zeros(n + 1)
    for (drawn, waiting), probability in states.items():
        if probability:
            found[drawn + (waiting and a == whole)] += probability
    return found
