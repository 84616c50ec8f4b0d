"""Figures of the steps of training and classifying: tiles, confusion, confidence, curves, maps.

Each function takes arrays or tables and returns a closed figure. Those of the consensus filters are
in `consensus_plots`; figures of results, made from rows of the record, are in `plots`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from sklearn.metrics import confusion_matrix

from lib.figures import style
from lib.figures.style import CORRECT, INCORRECT, OTHER, bare, below_tile, closed, panels


def tile_sheet(
    rows: Mapping[str, np.ndarray], columns: int = 10, *, frame_first: bool = False
) -> Figure:
    """Show a row of tiles per entry, the first framed or not; an empty row stays white.

    rows: title → [k, S, S, 3], uint8 or 0 … 1.
    """
    n_rows, sides = max(1, len(rows)), [tiles.shape[1] for tiles in rows.values() if len(tiles)]
    figure, axes = panels(n_rows, height=(style.WIDTH - 1.4) / columns * n_rows + 0.1)
    for ax, (title, tiles) in zip(axes[:, 0], rows.items(), strict=False):
        side = tiles.shape[1] if len(tiles) else max(sides, default=1)
        step = side + side // 10
        line = np.ones((side, columns * step - side // 10, 3), tiles.dtype)
        line *= 255 if tiles.dtype == np.uint8 else 1
        for column, tile in enumerate(tiles[:columns]):
            line[:, column * step :][:, :side] = tile
        ax.imshow(line)
        ax.text(-0.01, 0.5, title, transform=ax.transAxes, ha="right", va="center")
        if frame_first:
            ax.add_patch(Rectangle((0, 0), side, side, fill=False, lw=3, clip_on=False))
    for ax in axes.flat:
        ax.set_axis_off()
    return closed(figure)


def mask_sheet(
    masks: Mapping[str, np.ndarray], tiles: np.ndarray, decoded: np.ndarray, *, seed: int
) -> Figure:
    """Show a row of random tiles per entry, with the number of all that it holds.

    masks: title → bool [N]; tiles: [N] tile numbers; decoded: uint8 [tiles, S, S, 3].
    """
    order = np.random.default_rng(seed).permutation(len(tiles))
    rows = {}
    for title, mask in masks.items():
        chosen = tiles[order[np.asarray(mask)[order]]]
        rows[f"{title} ({len(chosen)})"] = decoded[chosen[:10]]
    return tile_sheet(rows)


def confident_sheet(
    probs: np.ndarray,
    labels: np.ndarray,
    tiles: np.ndarray,
    decoded: np.ndarray,
    class_names: Sequence[str],
    *,
    threshold: float,
    seed: int,
) -> Figure:
    """Show unlabelled tiles that pass γ early, those that pass only late, and those that never do.

    Parameters
    ----------
    probs : [2, M, C], after few and after all steps
    labels : [M], the true classes: frames are green where the pseudo label is correct
    tiles : [M] tile numbers
    decoded : uint8 [tiles, S, S, 3]
    class_names : [C]
    threshold : γ
    seed : of the choice among the tiles of a row
    """
    confidence, predicted = probs.max(2), probs.argmax(2)
    early, late = confidence > threshold
    order = np.random.default_rng(seed).permutation(len(tiles))
    rows = {
        "pass γ early": (0, early),
        "pass γ late": (1, late & ~early),
        "never pass γ": (1, ~late & ~early),
    }
    figure, axes = panels(len(rows), 8, height=4.7)
    for line, (title, (when, mask)) in zip(axes, rows.items(), strict=True):
        for ax, n in zip(line, order[mask[order]], strict=False):
            ax.imshow(decoded[tiles[n]])
            bare(ax, frame=CORRECT if predicted[when, n] == labels[n] else INCORRECT)
            below_tile(ax, class_names[predicted[when, n]], f"{confidence[when, n]:.2f}")
        for ax in line[mask.sum() :]:
            ax.set_axis_off()
        place = {"transform": line[0].transAxes, "ha": "right", "va": "center"}
        line[0].text(-0.12, 0.5, f"{title}\n({mask.sum()} of {len(tiles)})", **place)
    return closed(figure)


def probability_bars(
    tiles: np.ndarray, probs: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> Figure:
    """Show tiles with their class probabilities as bars, green where the highest is correct.

    tiles: uint8 [k, S, S, 3]; probs: [k, C]; labels: [k], the true classes.
    """
    k, n_classes = probs.shape
    heights = [1.4, 0.21 * n_classes]
    figure, axes = panels(2, k, height=sum(heights) + 0.7, height_ratios=heights)
    for column, (picture, bars) in enumerate(axes.T):
        predicted, label = probs[column].argmax(), labels[column]
        colours = [OTHER] * n_classes
        colours[predicted] = CORRECT if predicted == label else INCORRECT
        picture.imshow(tiles[column])
        picture.set_title(class_names[label], loc="center")
        picture.set_axis_off()
        bars.barh(range(n_classes), probs[column], color=colours)
        bars.set_yticks(range(n_classes), class_names if column == 0 else [""] * n_classes)
        bars.set(xlim=(0, 1), xticks=[0, 0.5, 1], xticklabels=["0", "½", "1"])
        bars.grid(axis="y", visible=False)
        bars.invert_yaxis()
    figure.supxlabel("probability", fontsize="medium")
    return closed(figure, "true class")


@style.plain_names()
def confusion(
    labels: np.ndarray, predicted: Mapping[str, np.ndarray], class_names: Sequence[str]
) -> Figure:
    """Draw confusion matrices side by side: counts, coloured by the share of each true class.

    predicted: title → [N].
    """
    side = min(4.0, 0.55 * len(class_names) + 0.8)
    size = {"width": len(predicted) * side + 1.8, "height": side + 1.0}
    figure, axes = panels(1, len(predicted), **size, sharey=True)
    look = {"fmt": "d", "vmin": 0, "vmax": 1, "cmap": "Blues", "square": True, "cbar": False}
    look |= dict.fromkeys(("xticklabels", "yticklabels"), class_names)
    for ax, (title, column) in zip(axes[0], predicted.items(), strict=True):
        counts = confusion_matrix(labels, column, labels=range(len(class_names)))
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        sns.heatmap(shares, annot=counts, ax=ax, **look)
        style.name_matrix(ax, "predicted", "true class" if ax is axes[0, 0] else "", title)
    figure.colorbar(ax.collections[0], ax=axes, label="share of the true class", shrink=0.8)
    return closed(figure)


def judged_histogram(
    values: np.ndarray,
    correct: np.ndarray,
    xlabel: str,
    *,
    log: bool = False,
    cut: float | None = None,
) -> Figure:
    """Draw how a value of the tiles is distributed, of correct and of incorrect labels.

    values, correct: [N]; log: the scale of the number of tiles; cut: a value to be marked.
    """
    figure, axes = panels(width=6.5, height=2.8)
    look: dict[str, Any] = {"bins": 30, "rwidth": 0.85, "stacked": not log}
    look |= {"color": [CORRECT, INCORRECT], "label": ["correct", "incorrect"]}
    axes[0, 0].hist([values[correct], values[~correct]], **look)
    if cut is not None:
        axes[0, 0].axvline(cut, color="black", lw=1, ls=":", label="cut")
    axes[0, 0].set(xlabel=xlabel, ylabel="tiles", yscale="log" if log else "linear")
    return closed(figure, legend=True)


def loss_curve(losses: Sequence[float] | np.ndarray, name: str) -> Figure:
    """Draw the loss of each step, and its running mean. losses: [steps]."""
    figure, axes = panels(width=6.0, height=2.8)
    axes[0, 0].plot(losses, lw=0.6, alpha=0.4)
    axes[0, 0].plot(_running_mean(pd.DataFrame({name: losses})), color="C0")
    axes[0, 0].set(xlabel="step", ylabel=name)
    return closed(figure)


def training_curves(curves: Mapping[str, pd.DataFrame], threshold: float) -> Figure:
    """Draw loss, share of unlabelled tiles with a pseudo label and its precision, per training.

    curves: name → curve of `trainer.train`, of which running means are shown; the precision of the
    pseudo labels only where the true labels are known.
    """
    shown = {
        "loss": "loss, mean of both networks",
        "confident": f"unlabelled tiles above {threshold:g}",
        "precision": "pseudo-label precision",
    }
    if not any(curve.precision.notna().any() for curve in curves.values()):
        del shown["precision"]
    figure, axes = panels(1, len(shown), width=3 * len(shown), height=2.9)
    for idx, (name, curve) in enumerate(curves.items()):
        smooth = _running_mean(curve.assign(loss=(curve.loss_a + curve.loss_b) / 2))
        for ax, (column, title) in zip(axes[0], shown.items(), strict=True):
            ax.plot(curve.step, smooth[column], color=f"C{idx}", label=name)
            ax.set(xlabel="step", title=title)
    axes[0, 0].set_yscale("log")
    return closed(figure, legend=len(curves) > 1)


def _running_mean(curve: pd.DataFrame) -> pd.DataFrame:
    return curve.rolling(max(1, len(curve) // 20), min_periods=1).mean()


def reliability(probs: Mapping[str, np.ndarray], labels: np.ndarray, bins: int = 10) -> Figure:
    """Draw the share of correct predictions against their confidence; a point's area is its tiles.

    probs: name → [N, C]; labels: [N]. On the diagonal a confidence means what it says. Bins with
    less than a fiftieth of the tiles are left out: chance rules there.
    """
    figure, axes = panels(width=4.6, height=4.8)
    ax = axes[0, 0]
    ax.plot([0, 1], [0, 1], color="black", lw=1, ls=":")
    for name, p in probs.items():
        tiles = pd.DataFrame({"confidence": p.max(1), "correct": p.argmax(1) == labels, "n": 1})
        by_bin = tiles.groupby((tiles.confidence * bins).astype(int).clip(0, bins - 1))
        means = by_bin.mean().assign(n=by_bin.n.sum())
        means = means[means.n >= len(labels) / 50]
        colour = style.SETTING_COLOURS.get(name, style.SETTING_COLOURS[""])
        ax.plot(means.confidence, means.correct, color=colour, lw=1, label=name)
        area = 250 * means.n / len(labels)
        ax.scatter(means.confidence, means.correct, area, color=colour, alpha=0.7, lw=0)
    ax.set(xlabel="confidence", ylabel="share correct", xlim=(0, 1.03), ylim=(0, 1.03))
    return closed(figure, legend=True)


# What a group of tiles of a map is called → its colour; classes have those of the palette.
FATES = {
    "networks agree": OTHER,
    "prompt and cluster disagree": OTHER,
    "agree, correct": CORRECT,
    "agree, incorrect": INCORRECT,
    "disagree, mean is correct": CORRECT,
    "disagree, mean is incorrect": INCORRECT,
}


def feature_maps(
    points: Mapping[str, np.ndarray],
    groups: Mapping[str, np.ndarray],
    class_names: Sequence[str] = (),
    chosen: Mapping[str, np.ndarray] | None = None,
) -> Figure:
    """Draw tiles in two dimensions, coloured by group, a panel per title.

    Parameters
    ----------
    points : title → [N, 2]; NaN for a tile that is not shown
    groups : title → [N], names of classes or of `FATES`
    class_names : [C], in the order of the palette
    chosen : title → rows that get a ring
    """
    colours = dict(zip(class_names, sns.color_palette("colorblind", len(class_names)), strict=True))
    figure, axes = panels(1, len(points), width=4.5 * len(points), height=2.2 + 3 / len(points))
    for ax, (title, xy) in zip(axes[0], points.items(), strict=True):
        for name, colour in (colours | FATES).items():
            mask = groups[title] == name
            if mask.any():
                ax.scatter(*xy[mask].T, s=10, lw=0, color=colour, label=name)
        if chosen:
            rings = {"s": 34, "lw": 1.2, "fc": "none", "ec": "black", "label": "chosen"}
            ax.scatter(*xy[chosen[title]].T, **rings)
        bare(ax, title)
    return closed(figure, legend=True)
