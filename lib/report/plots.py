"""Every figure. Each function takes arrays, tables or rows of the record and returns a figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

from lib.consensus import PUBLISHED_KEEP_RATIO, vote_entropy

plt.style.use(Path(__file__).with_name("style.mplstyle"))

RIGHT, WRONG, OTHER = "#009E73", "#D55E00", "#BBBBBB"
# The same colour for the same rule everywhere: hue for the tie rule, line for the quota.
TIE_COLOURS = {"random": "#E69F00", "probability": "#0072B2"}
QUOTA_LINES = {"global": "--", "class": "-"}
SETTING_COLOURS = {"published filters": "#E69F00", "ours": "#0072B2", "": "#777777"}


def closed(figure: Figure) -> Figure:
    """Take a finished figure from pyplot, so that a notebook shows it once, as the cell's value."""
    plt.close(figure)
    return figure


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


def stains_and_views(tile: np.ndarray, stains: np.ndarray, views: np.ndarray) -> Figure:
    """A tile, its two stains and its random views.

    tile: uint8 [S, S, 3]; stains: [2, S, S] optical densities; views: [V, s, s, 3] in 0 … 1.
    """
    columns = 3 + (len(views) + 1) // 2
    figure = plt.figure(figsize=(1.15 * columns, 2.5))
    grid = figure.add_gridspec(2, columns)
    panels = [("tile", tile, None)] + [
        (name, stain, colour)
        for name, stain, colour in zip(
            ("haematoxylin", "eosin"), stains, ("Purples", "RdPu"), strict=True
        )
    ]
    for at, (title, image, colours) in enumerate(panels):
        ax = figure.add_subplot(grid[:, at])
        limits = (0, np.quantile(image, 0.99)) if colours else (None, None)
        ax.imshow(image, cmap=colours, vmin=limits[0], vmax=limits[1])
        ax.set_title(title, fontsize=9)
        ax.set_axis_off()
    for number, view in enumerate(views):
        ax = figure.add_subplot(grid[number % 2, 3 + number // 2])
        ax.imshow(view)
        ax.set_title(f"view {number + 1}", fontsize=8)
        ax.set_axis_off()
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
    """Loss of both networks; share of confident pseudo labels and of right ones among them.

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
        right.plot(curve.step, smooth.precision, color="C5", label="right among these")
    right.set(xlabel="step", ylabel="share of remaining tiles", ylim=(0, 1.02))
    right.legend(loc="lower right")
    return closed(figure)


def reliability(probs: Mapping[str, np.ndarray], labels: np.ndarray, bins: int = 10) -> Figure:
    """Share of right predictions against their confidence; the area of a point is its tiles.

    probs: name → [N, C]; labels: [N]. On the diagonal a confidence means what it says.
    """
    figure, ax = plt.subplots(figsize=(4.2, 3.8))
    ax.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle=":")
    colours = {"zero-shot": SETTING_COLOURS[""]} | SETTING_COLOURS
    for name, p in probs.items():
        confidence, right = p.max(1), p.argmax(1) == labels
        at = np.clip((confidence * bins).astype(int), 0, bins - 1)
        means = pd.DataFrame({"confidence": confidence, "right": right}).groupby(at).mean()
        sizes = np.bincount(at, minlength=bins)[means.index]
        ax.plot(means.confidence, means.right, color=colours[name], linewidth=1, label=name)
        area = 250 * sizes / len(labels)
        ax.scatter(means.confidence, means.right, area, color=colours[name], alpha=0.7, lw=0)
    ax.set(xlabel="confidence", ylabel="share right", xlim=(0, 1.03), ylim=(0, 1.03))
    ax.legend(loc="upper left")
    return closed(figure)


def confusion(
    labels: np.ndarray, predicted: np.ndarray, class_names: Sequence[str], title: str = ""
) -> Figure:
    """Confusion matrix: counts, coloured by the share of each true class."""
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
    """Confidence of the right and the wrong labels. probs: [N, C]; labels: [N]."""
    right = probs.argmax(1) == labels
    figure, ax = plt.subplots(figsize=(5, 2.6))
    bins = np.linspace(1 / probs.shape[1], 1, 26)
    ax.hist(
        [probs.max(1)[right], probs.max(1)[~right]],
        bins=bins.tolist(),
        stacked=True,
        color=[RIGHT, WRONG],
        label=["right", "wrong"],
    )
    ax.set(xlabel="confidence", ylabel="tiles")
    ax.legend()
    return closed(figure)


def vote_entropy_histogram(votes: np.ndarray, n_classes: int, right: np.ndarray) -> Figure:
    """Vote entropy of right and wrong prompt labels, with the cut at the published share.

    votes: [V, N]; right: bool [N]. Tiles left of the cut are kept; those in the cut's own bar tie.
    """
    entropies = vote_entropy(votes, n_classes)
    values, bar_of = np.unique(entropies.round(6), return_inverse=True)
    finest = max(values[-1], 0.1) / 30
    if len(values) > 1 and np.diff(values).min() < finest:
        bar_of = (entropies / finest).astype(int)
        values = np.arange(bar_of.max() + 1) * finest
    counts = [np.bincount(bar_of[m], minlength=len(values)) for m in (right, ~right)]
    width = 0.85 * (np.diff(values).min() if len(values) > 1 else finest)
    figure, ax = plt.subplots(figsize=(6, 3))
    ax.bar(values, counts[0], width, color=RIGHT, label="prompt label right")
    ax.bar(values, counts[1], width, bottom=counts[0], color=WRONG, label="wrong")
    cut = np.quantile(entropies, PUBLISHED_KEEP_RATIO, method="inverted_cdf")
    ties = (entropies.round(6) == round(float(cut), 6)).mean()
    ax.axvline(cut, color="black", linewidth=1, linestyle=":")
    ax.annotate(
        f"lowest {100 * PUBLISHED_KEEP_RATIO:.0f} % ends here; {ties:.0%} of all tiles tie",
        (cut, ax.get_ylim()[1]),
        xytext=(6, -4),
        textcoords="offset points",
        va="top",
        fontsize=9,
    )
    ax.set(xlabel="vote entropy (nats)", ylabel="tiles")
    ax.legend(loc="center right")
    return closed(figure)


def precision_against_keep_ratio(rows: pd.DataFrame, title: str = "") -> Figure:
    """Precision of the kept labels against the share kept, for each tie rule and quota.

    rows: columns keep_ratio, precision, tie_break, quota, and seed (several give a band from the
    lowest to the highest).
    """
    figure, ax = plt.subplots(figsize=(5.6, 3.4))
    for (tie_break, quota), part in rows.groupby(["tie_break", "quota"], sort=False):
        curve = part.groupby("keep_ratio").precision.agg(["mean", "min", "max"])
        colour, line = TIE_COLOURS[tie_break], QUOTA_LINES[quota]
        label = f"{tie_break} ties, {quota} quota"
        ax.plot(curve.index, curve["mean"], color=colour, linestyle=line, label=label)
        if part.seed.nunique() > 1:
            ax.fill_between(curve.index, curve["min"], curve["max"], color=colour, alpha=0.12, lw=0)
    ax.axvline(PUBLISHED_KEEP_RATIO, color="black", linewidth=1, linestyle=":")
    ax.set(xlabel="share of tiles kept", ylabel="precision of kept labels", title=title)
    ax.legend()
    return closed(figure)


def cluster_map(
    points: np.ndarray,
    prompt_labels: np.ndarray,
    feature_labels: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
) -> Figure:
    """Features in two dimensions, coloured by true class, by cluster's class and by agreement.

    points: [N, 2]; the three label arrays: [N].
    """
    figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.6), sharex=True, sharey=True)
    colours = sns.color_palette("colorblind", len(class_names))
    titled = ((axes[0], labels, "true class"), (axes[1], feature_labels, "cluster's class"))
    for ax, of, title in titled:
        for number, name in enumerate(class_names):
            ax.scatter(*points[of == number].T, s=7, lw=0, color=colours[number], label=name)
        ax.set_title(title)
    agree = prompt_labels == feature_labels
    right = prompt_labels == labels
    for mask, colour, name in (
        (~agree, OTHER, "disagree: dropped"),
        (agree & right, RIGHT, "agree, right"),
        (agree & ~right, WRONG, "agree, wrong"),
    ):
        axes[2].scatter(*points[mask].T, s=7, lw=0, color=colour, label=f"{name} ({mask.sum()})")
    axes[2].set_title("prompt and cluster")
    for ax in axes:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2, markerscale=2, fontsize=8)
    return closed(figure)


def kept_per_class(table: pd.DataFrame, class_names: Sequence[str]) -> Figure:
    """Kept labels of each class, right and wrong, for each method.

    table: one line per method and class, columns method, class, kept, right (means over seeds).
    """
    methods = list(dict.fromkeys(table.method))
    figure, axes = plt.subplots(
        1,
        len(methods),
        figsize=(1.9 * len(methods) + 1.2, 0.34 * len(class_names) + 1.3),
        sharex=True,
        sharey=True,
    )
    for ax, method in zip(np.atleast_1d(axes), methods, strict=True):
        part = table[table.method == method].set_index("class").loc[list(class_names)]
        ax.barh(part.index, part.right, color=RIGHT, label="right")
        ax.barh(part.index, part.kept - part.right, left=part.right, color=WRONG, label="wrong")
        ax.set_title(method, fontsize=9)
        ax.set_xlabel("tiles kept")
        ax.grid(axis="y", visible=False)
    np.atleast_1d(axes)[-1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    np.atleast_1d(axes)[0].invert_yaxis()
    return closed(figure)


def consensus_overview(table: pd.DataFrame, title: str = "") -> Figure:
    """How right the kept labels are, by filter and setting: a point per seed, a bar per mean.

    table: columns method (for display), setting, share, precision, seed.
    """
    methods = list(dict.fromkeys(table.method))
    figure, ax = plt.subplots(figsize=(6.4, 0.5 * len(methods) + 1.1))
    for height, method in enumerate(methods):
        part = table[table.method == method]
        for setting, of in part.groupby("setting"):
            colour = SETTING_COLOURS[setting]
            at = height + {"published filters": -0.14, "ours": 0.14, "": 0}[setting]
            ax.scatter(of.precision, np.full(len(of), at), s=14, color=colour, alpha=0.5, lw=0)
            ax.plot(of.precision.mean(), at, marker="|", markersize=10, color=colour, mew=2.5)
            ax.annotate(
                f"{of.precision.mean():.3f}, {of.share.mean():.0%} kept",
                (1.02, at),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=8.5,
                color=colour,
            )
    for setting in ("published filters", "ours"):
        ax.plot([], [], marker="|", lw=0, mew=2.5, color=SETTING_COLOURS[setting], label=setting)
    ax.legend(loc="lower left")
    ax.set_yticks(range(len(methods)), methods)
    ax.invert_yaxis()
    ax.set(xlabel="share of kept labels that are right", title=title)
    return closed(figure)


def comparison(table: pd.DataFrame, names: Mapping[str, str], title: str = "") -> Figure:
    """Accuracy of each method: a point per seed, a bar at the mean.

    table: `comparison.score_frame`; names: method → what to print.
    """
    methods = list(dict.fromkeys(table.method))
    figure, ax = plt.subplots(figsize=(6.4, 0.32 * len(methods) + 1.1))
    low = table.accuracy.min()
    for height, method in enumerate(methods):
        part = table[table.method == method]
        for setting, of in part.groupby("setting"):
            colour = "black" if method == "full-supervision" else SETTING_COLOURS[setting]
            at = height + {"published filters": -0.17, "ours": 0.17, "": 0}[setting]
            ax.scatter(of.accuracy, np.full(len(of), at), s=14, color=colour, alpha=0.5, lw=0)
            ax.plot(of.accuracy.mean(), at, marker="|", markersize=9, color=colour, mew=2.5)
    for setting in ("published filters", "ours"):
        ax.plot([], [], marker="|", lw=0, mew=2.5, color=SETTING_COLOURS[setting], label=setting)
    ax.legend(loc="upper right")
    ax.set_yticks(range(len(methods)), [names[method] for method in methods])
    ax.invert_yaxis()
    ax.set(xlabel="accuracy on the test set", title=title, xlim=(low - 0.02, 1.005))
    return closed(figure)


def ablation_curves(lines: Mapping[str, pd.DataFrame], title: str = "") -> Figure:
    """Accuracy against one rule at a time: mean and range over seeds; dotted is our setting.

    lines: what the axis says → `comparison.ablation` of one rule, its values in the column `x`.
    """
    figure, axes = plt.subplots(1, len(lines), figsize=(2.3 * len(lines), 2.7), sharey=True)
    for ax, (name, of) in zip(np.atleast_1d(axes), lines.items(), strict=True):
        values = sorted(of.x.unique())
        for column, colour in (("precision", OTHER), ("accuracy", SETTING_COLOURS["ours"])):
            curve = of.groupby("x")[column].agg(["mean", "min", "max"])
            at = [values.index(x) for x in curve.index]
            label = {"precision": "labels kept that are right", "accuracy": "accuracy on test"}
            ax.plot(at, curve["mean"], color=colour, marker="o", ms=3, label=label[column])
            ax.fill_between(at, curve["min"], curve["max"], color=colour, alpha=0.15, lw=0)
        ours = of.x[of.varied == ()].iloc[0]
        ax.axvline(values.index(ours), color="black", linewidth=1, linestyle=":")
        ax.set_xticks(range(len(values)), [f"{x:g}" for x in values], fontsize=8)
        ax.set(xlabel=name)
    np.atleast_1d(axes)[0].legend(loc="lower left", fontsize=8)
    figure.suptitle(title)
    return closed(figure)


def robustness(lines: pd.DataFrame, names: Mapping[str, str], title: str = "") -> Figure:
    """Accuracy of each method against the stain shift of the target: mean and range over seeds.

    lines: columns stain_shift, method, setting, accuracy; names: method → what to print.
    """
    figure, ax = plt.subplots(figsize=(5.8, 3.4))
    looks = {"zero-shot": ":", "ce-all": "--", "full-supervision": "-."}
    for (method, setting), of in lines.groupby(["method", "setting"], sort=False):
        colour = "black" if method == "full-supervision" else SETTING_COLOURS[setting]
        curve = of.groupby("stain_shift").accuracy.agg(["mean", "min", "max"])
        label = f"{names[method]}, {setting}" if setting else names[method]
        ax.plot(curve.index, curve["mean"], looks.get(method, "-"), color=colour, label=label)
        ax.fill_between(curve.index, curve["min"], curve["max"], color=colour, alpha=0.12, lw=0)
    ax.set(xlabel="stain shift of the target", ylabel="accuracy on the test set", title=title)
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return closed(figure)
