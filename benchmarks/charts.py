"""Charts: of ``benchmarks.accuracy`` over several sets, of ``benchmarks.learning_curve`` over reviewed images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.verdicts import right_labels

if TYPE_CHECKING:
    from benchmarks.across import SetResult

SHOWN = ("paper", "default")
_MOST_CLASSES = 20


def draw(results: Mapping[str, SetResult], folder: Path) -> None:
    """Writes ``shots.svg`` and one ``precision_recall_<set>.svg`` a set."""
    import matplotlib

    matplotlib.use("agg")
    folder.mkdir(parents=True, exist_ok=True)
    _shots(results, folder / "shots.svg")
    for name, result in results.items():
        _precision_recall(name, result, folder / f"precision_recall_{name.replace(' ', '_')}.svg")


def draw_curves(results: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Writes reviewed images against mask AP and presence F1: a column a set, a line a method, as an SVG."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figures = {"mask_ap": "mask AP", "presence_f1": "presence F1"}
    figure, axes = pyplot.subplots(2, len(results), figsize=(3.6 * len(results), 5.4), squeeze=False, sharex="col")
    for column, (name, by_method) in enumerate(results.items()):
        methods = {method: cells for method, cells in by_method.items() if isinstance(cells, Mapping)}
        for axis, (key, heading) in zip(axes[:, column], figures.items(), strict=True):
            for method, cells in methods.items():
                plain = {"color": "gray", "linestyle": "--"} if method == "prototypes" else {"marker": "o"}
                axis.plot([int(n) for n in cells], [cell[key] for cell in cells.values()], label=method, **plain)
            axis.set(ylabel=heading if not column else None)
            axis.grid(alpha=0.3)
        axes[0][column].set(title=name)
        axes[1][column].set(xlabel="reviewed images")
    axes[0][0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def _shots(results: Mapping[str, SetResult], path: Path) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(results), figsize=(4 * len(results), 3.2), squeeze=False)
    for axis, (name, result) in zip(axes[0], results.items(), strict=True):
        for variant in [one for one in SHOWN if one in result.rows]:
            shots = sorted({key[0] for key in result.rows[variant]})
            values = [result.values(variant, "mask_ap", one) for one in shots]
            means = [np.mean(some) for some in values]
            axis.errorbar(shots, means, [np.std(some, ddof=len(some) > 1) for some in values],
                          marker="o", capsize=3, label=variant)  # fmt: skip
        axis.set(title=name, xlabel="references a class", ylabel="mask AP", xticks=shots)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def _precision_recall(name: str, result: SetResult, path: Path) -> None:
    from matplotlib import pyplot

    classes = result.targets.classes[:_MOST_CLASSES]
    columns = min(5, len(classes))
    lines = -(-len(classes) // columns)
    figure, axes = pyplot.subplots(lines, columns, figsize=(2.4 * columns, 2.2 * lines), squeeze=False,
                                   sharex=True, sharey=True)  # fmt: skip
    for variant in [one for one in SHOWN if one in result.found]:
        predictions = result.found[variant]
        right = right_labels(result.targets.truth, predictions)
        scores, labels = (np.array([getattr(one, part) for one in predictions]) for part in ("score", "label"))
        for k, (axis, title) in enumerate(zip(axes.flat, classes, strict=False)):
            mine = np.flatnonzero(labels == k)
            mine = mine[np.argsort(-scores[mine], kind="stable")]
            hits = np.cumsum(right[mine])
            objects = max(sum(item.label == k and not item.crowd for item in result.targets.truth), 1)
            axis.plot(hits / objects, hits / np.arange(1, len(mine) + 1), label=variant)
            axis.set(title=title, xlim=(0, 1), ylim=(0, 1.02))
            axis.title.set_fontsize(9)
    for axis in axes.flat[len(classes) :]:
        axis.set_visible(False)
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.supxlabel(f"recall (mask IoU 0.5), {name}, the last reference set")
    figure.supylabel("precision")
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
