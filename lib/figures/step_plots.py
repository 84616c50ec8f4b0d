"""Figures of the steps of training and classifying: tiles, their captions, confusion, curves.

Each function takes arrays or tables and returns a closed figure. Those of the consensus filters are
in `consensus_plots`; figures of results, made from rows of the record, are in `plots`, with the
colours of all figures.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.figures.plots import OTHER, RIGHT, SETTING_COLOURS, WRONG, closed, plain_names


def tile_sheet(rows: Mapping[str, np.ndarray], columns: int = 10, tile_inch: float = 0.8) -> Figure:
    """One row of tiles per entry. rows: title → uint8 [k, S, S, 3]; an empty row stays white."""
    size = tile_inch * columns + 1.6, tile_inch * len(rows) + 0.1
    figure, axes = plt.subplots(len(rows), 1, figsize=size, squeeze=False)
    side = max((tiles.shape[1] for tiles in rows.values() if len(tiles)), default=1)
    for ax, (title, tiles) in zip(axes.flat, rows.items(), strict=True):
        gap = side // 10
        line = np.full((side, columns * (side + gap) - gap, 3), 255, np.uint8)
        for column, tile in enumerate(tiles[:columns]):
            line[:, column * (side + gap) :][:, :side] = tile
        ax.imshow(line)
        ax.set_axis_off()
        ax.text(-0.01, 0.5, title, transform=ax.transAxes, ha="right", va="center", fontsize=9)
    return closed(figure)


def mask_sheet(
    masks: Mapping[str, np.ndarray], tiles: np.ndarray, decoded: np.ndarray, *, seed: int
) -> Figure:
    """One row of random tiles per entry, with the number of all that it holds.

    masks: title → bool [N]; tiles: [N] tile numbers; decoded: uint8 [tiles, S, S, 3].
    """
    order = np.random.default_rng(seed).permutation(len(tiles))
    rows = {}
    for title, mask in masks.items():
        chosen = tiles[order[np.asarray(mask)[order]]]
        rows[f"{title} ({len(chosen)})"] = decoded[chosen[:10]]
    return tile_sheet(rows)


def captioned_sheet(
    rows: Mapping[str, pd.DataFrame], decoded: np.ndarray, columns: int = 8
) -> Figure:
    """One row of tiles per entry, with a caption each and a frame, green where the label is right.

    rows: title → a row per tile with columns tile, caption, right; decoded: uint8 [tiles, S, S, 3],
    by tile number. An entry without tiles stays white.
    """
    size = 1.15 * columns + 1.8, 1.45 * len(rows) + 0.1
    figure, axes = plt.subplots(len(rows), columns, figsize=size, squeeze=False)
    for line, (title, subset) in zip(axes, rows.items(), strict=True):
        for ax, entry in zip(line, subset[:columns].itertuples(), strict=False):
            ax.imshow(decoded[entry.tile])
            frame(ax, RIGHT if entry.right else WRONG)
            ax.set_xlabel(entry.caption, fontsize=8, labelpad=2)
        for ax in line[len(subset) :]:
            ax.set_axis_off()
        line[0].text(
            -0.12, 0.5, title, transform=line[0].transAxes, ha="right", va="center", fontsize=9
        )
    return closed(figure)


def frame(ax: Axes, colour: object, width: float = 2.5) -> None:
    """Frame a picture in a colour and leave out its ticks."""
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    ax.spines[:].set(visible=True, color=colour, linewidth=width)


def confident_sheet(
    early: np.ndarray,
    late: np.ndarray,
    labels: np.ndarray,
    tiles: np.ndarray,
    decoded: np.ndarray,
    class_names: Sequence[str],
    *,
    threshold: float,
    seed: int,
) -> Figure:
    """Unlabelled tiles that pass γ early, those that pass only late, and those that never do.

    early, late: probabilities [M, C] after few and after all steps; labels: [M], the true classes,
    which colour the frames alone; tiles: [M] tile numbers; decoded: uint8 [tiles, S, S, 3].
    """
    passes_early, passes_late = early.max(1) > threshold, late.max(1) > threshold
    order = np.random.default_rng(seed).permutation(len(tiles))
    rows = {}
    for title, probs, mask in (
        ("pass γ early", early, passes_early),
        ("pass γ late", late, passes_late & ~passes_early),
        ("never pass γ", late, ~passes_late & ~passes_early),
    ):
        idx = order[mask[order]]
        names = np.array(class_names)[probs[idx].argmax(1)]
        captions = [f"{name}\n{p:.2f}" for name, p in zip(names, probs[idx].max(1), strict=True)]
        right = probs[idx].argmax(1) == labels[idx]
        rows[f"{title}\n({len(idx)} of {len(tiles)})"] = pd.DataFrame(
            {"tile": tiles[idx], "caption": captions, "right": right}
        )
    return captioned_sheet(rows, decoded)


def probability_bars(
    tiles: np.ndarray, probs: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> Figure:
    """Tiles with their class probabilities as bars, green where the highest is right.

    tiles: uint8 [k, S, S, 3]; probs: [k, C]; labels: [k], the true classes.
    """
    k, n_classes = probs.shape
    figure, axes = plt.subplots(
        2,
        k,
        figsize=(1.55 * k + 1.2, 1.9 + 0.21 * n_classes),
        height_ratios=[1.5, 0.21 * n_classes],
        squeeze=False,
    )
    for column in range(k):
        picture, bars = axes[:, column]
        predicted, label = probs[column].argmax(), labels[column]
        colours = [OTHER] * n_classes
        colours[predicted] = RIGHT if predicted == label else WRONG
        picture.imshow(tiles[column])
        picture.set_title(f"{class_names[label]}", fontsize=9, loc="center")
        picture.set_axis_off()
        bars.barh(range(n_classes), probs[column], color=colours)
        bars.set_yticks(range(n_classes), class_names if column == 0 else [""] * n_classes)
        bars.set(xlim=(0, 1), xticks=[0, 0.5, 1])
        bars.set_xticklabels(["0", "½", "1"])
        bars.grid(axis="y", visible=False)
        bars.invert_yaxis()
    figure.supxlabel("probability", fontsize=9)
    figure.suptitle("true class", fontsize=9)
    return closed(figure)


@plain_names()
def confusion(
    labels: np.ndarray, predicted: np.ndarray, class_names: Sequence[str], title: str = ""
) -> Figure:
    """Confusion matrix: counts, coloured by the share of each true class."""
    from sklearn.metrics import confusion_matrix

    counts = confusion_matrix(labels, predicted, labels=range(len(class_names)))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 1.6 + 0.62 * len(class_names)
    figure, ax = plt.subplots(figsize=(side + 1.2, side))
    sns.heatmap(
        shares,
        annot=counts,
        fmt="d",
        vmin=0,
        vmax=1,
        cmap="Blues",
        square=True,
        xticklabels=class_names,
        yticklabels=class_names,
        cbar_kws={"label": "share of the true class", "shrink": 0.8},
        ax=ax,
    )
    ax.set(xlabel="predicted", ylabel="true", title=title)
    ax.tick_params(axis="x", rotation=40)
    plt.setp(ax.get_xticklabels(), ha="right", rotation_mode="anchor")
    ax.tick_params(axis="y", rotation=0)
    return closed(figure)


def confidence_histogram(probs: np.ndarray, labels: np.ndarray) -> Figure:
    """Confidence of the right and the wrong labels, tiles on a log scale. probs: [N, C]."""
    right = probs.argmax(1) == labels
    figure, ax = plt.subplots(figsize=(5, 2.6))
    bins = np.linspace(1 / probs.shape[1], 1, 26)
    ax.hist(
        [probs.max(1)[right], probs.max(1)[~right]],
        bins=bins.tolist(),
        color=[RIGHT, WRONG],
        label=["right", "wrong"],
    )
    ax.set(xlabel="confidence", ylabel="tiles", yscale="log")
    ax.legend()
    return closed(figure)


def loss_curve(losses: Sequence[float] | np.ndarray, name: str) -> Figure:
    """Loss of each step, and its running mean. losses: [steps]."""
    figure, ax = plt.subplots(figsize=(5, 2.6))
    ax.plot(losses, linewidth=0.6, alpha=0.4)
    smooth = pd.Series(losses).rolling(max(1, len(losses) // 20), min_periods=1).mean()
    ax.plot(smooth, color="C0")
    ax.set(xlabel="step", ylabel=name)
    return closed(figure)


def training_curve(curve: pd.DataFrame, threshold: float) -> Figure:
    """Loss of both networks; share of confident pseudo labels, and their precision.

    curve: columns step, loss_a, loss_b, confident, precision, one row per step.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 2.9))
    smooth = curve.rolling(max(1, len(curve) // 40), min_periods=1).mean()
    for column, name in (("loss_a", "network A"), ("loss_b", "network B")):
        left.plot(curve.step, smooth[column], label=name)
    left.set(xlabel="step", ylabel="loss", yscale="log")
    left.legend()
    right.plot(curve.step, smooth.confident, color="C2", label=f"confident (above {threshold:g})")
    if curve.precision.notna().any():
        right.plot(curve.step, smooth.precision, color="C5", label="their precision")
    right.set(xlabel="step", ylabel="share", ylim=(0, 1.02))
    right.legend(loc="lower right")
    return closed(figure)


def reliability(probs: Mapping[str, np.ndarray], labels: np.ndarray, bins: int = 10) -> Figure:
    """Share of right predictions against their confidence; the area of a point is its tiles.

    probs: name → [N, C]; labels: [N]. On the diagonal a confidence means what it says. Bins with
    less than a fiftieth of the tiles are left out: chance rules there.
    """
    figure, ax = plt.subplots(figsize=(4.2, 3.8))
    ax.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle=":")
    colours = {"zero-shot": SETTING_COLOURS[""]} | SETTING_COLOURS
    for name, p in probs.items():
        confidence, right = p.max(1), p.argmax(1) == labels
        bin_of = np.clip((confidence * bins).astype(int), 0, bins - 1)
        means = pd.DataFrame({"confidence": confidence, "right": right}).groupby(bin_of).mean()
        sizes = np.bincount(bin_of, minlength=bins)[means.index]
        means, sizes = means[sizes >= len(labels) / 50], sizes[sizes >= len(labels) / 50]
        ax.plot(means.confidence, means.right, color=colours[name], linewidth=1, label=name)
        area = 250 * sizes / len(labels)
        ax.scatter(means.confidence, means.right, area, color=colours[name], alpha=0.7, lw=0)
    ax.set(xlabel="confidence", ylabel="share right", xlim=(0, 1.03), ylim=(0, 1.03))
    ax.legend(loc="upper left")
    return closed(figure)
