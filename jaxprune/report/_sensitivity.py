"""Plots of one scan: what each layer costs at each rate, and which cells were chosen."""

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from jaxprune.report._summary import IterationSummary
from jaxprune.report._theme import FIRST, GRID, INK, MUTED, PAPER, SECOND, figure, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = {'params': 'o', 'FLOPS': 's', 'both': 'D'}
_COLUMNS = 11


def heatmap(step: IterationSummary) -> str:
    """Loss of mAP50-95, layers × rates, the chosen cells marked, as SVG."""
    layers, rates, values = _table(step)
    loss = np.clip(_baseline(step) - values, 0, None)
    largest = max(float(np.nanmax(loss)), 1e-9)
    with figure(11.4, 0.85 + 0.3 * len(rates)) as (drawing, axes):
        opacity = np.where(np.isnan(loss), 0, np.sqrt(loss / largest))
        _cells(axes, opacity)
        for choice in step.chosen:
            if choice.layer in layers and choice.rate in rates:
                position = (layers.index(choice.layer), rates.index(choice.rate))
                axes.plot(*position, MARKERS[choice.chosen_for], color=INK, markerfacecolor=PAPER, markeredgewidth=1.3)
        axes.set_yticks(range(len(rates)), [f'{rate:.0%}' for rate in rates])
        axes.set_xticks(range(0, len(layers), 5), [str(layer) for layer in layers[::5]])
        axes.set_xlabel('Layer (published index)')
        axes.set_ylabel('Filters removed')
        axes.set_xlim(-0.5, len(layers) - 0.5)
        axes.set_ylim(-0.5, len(rates) - 0.5)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        return to_svg(drawing, name=f'heatmap-{step.index}')


def largest_loss(step: IterationSummary) -> float:
    """The largest loss of mAP50-95 in the scan: the deep end of the heat map's scale."""
    return max(0.0, float(_baseline(step) - np.nanmin(_table(step)[2])))


def curves(step: IterationSummary) -> str:
    """mAP50-95 against the rate, a small panel per layer, the chosen points marked, as SVG."""
    layers, rates, values = _table(step)
    baseline = _baseline(step)
    top = max(baseline, float(np.nanmax(values)), 1e-9)
    columns = min(_COLUMNS, len(layers))
    rows = -(-len(layers) // columns)
    chosen = {choice.layer: choice for choice in step.chosen}
    with figure(11.4, 0.35 + 0.92 * rows) as (drawing, axes):
        for place, layer in enumerate(layers):
            origin = (1.22 * (place % columns), -1.55 * (place // columns))
            heights = np.concatenate([[baseline], values[:, place]]) / top
            _panel(axes, origin, np.array([0, *rates]), heights, name=_name(step, layer), marked=layer in chosen)
            if layer in chosen and chosen[layer].rate in rates:
                height = values[rates.index(chosen[layer].rate), place] / top
                point = (origin[0] + chosen[layer].rate, origin[1] + height)
                axes.plot(*point, MARKERS[chosen[layer].chosen_for], color=SECOND, markersize=6)
        axes.set_xlim(-0.12, 1.22 * columns - 0.1)
        axes.set_ylim(-1.55 * (rows - 1) - 0.12, 1.42)
        axes.set_axis_off()
        return to_svg(drawing, name=f'curves-{step.index}')


def _panel(
    axes: 'Axes', origin: tuple[float, float], rates: np.ndarray, heights: np.ndarray, *, name: str, marked: bool
) -> None:
    x, y = origin
    axes.plot([x, x + 1], [y, y], color=GRID, linewidth=0.8)
    axes.plot([x, x + 1], [y + heights[0]] * 2, color=MUTED, linewidth=0.6, linestyle=(0, (2, 3)))
    measured = ~np.isnan(heights)
    axes.plot(x + rates[measured], y + heights[measured], color=FIRST, linewidth=2.2 if marked else 1.2)
    axes.fill_between(x + rates[measured], y, y + heights[measured], color=FIRST, alpha=0.16 if marked else 0.06, lw=0)
    weight = 'bold' if marked else 'normal'
    axes.text(x, y + 1.12, name, fontsize=7, color=INK if marked else MUTED, fontweight=weight)


def _cells(axes: 'Axes', opacity: np.ndarray) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Rectangle

    boxes = [Rectangle((layer - 0.46, rate - 0.44), 0.92, 0.88) for rate, layer in np.ndindex(opacity.shape)]
    colors = [(*to_rgb(SECOND), float(alpha)) for alpha in opacity.ravel()]
    axes.add_collection(PatchCollection(boxes, facecolors=colors, edgecolors=GRID, linewidths=0.5))


def _name(step: IterationSummary, layer: int) -> str:
    return f'{layer} · {step.layer_names[layer]}' if layer < len(step.layer_names) else str(layer)


def _baseline(step: IterationSummary) -> float:
    """mAP50-95 of the unpruned model; the best of the scan where its row is missing."""
    unpruned = [row['map50_95'] for row in step.sensitivity if row['layer'] is None]
    return unpruned[0] if unpruned else max(row['map50_95'] for row in step.sensitivity)


def _table(step: IterationSummary) -> tuple[list[int], list[float], np.ndarray]:
    """Layers, rates, and mAP50-95 [rates, layers] with NaN where nothing was measured."""
    cells: dict[int, dict[float, float]] = defaultdict(dict)
    for row in step.sensitivity:
        if row['layer'] is not None:
            cells[row['layer']][row['rate']] = row['map50_95']
    layers = sorted(cells)
    rates = sorted({rate for column in cells.values() for rate in column})
    values = [[cells[layer].get(rate, np.nan) for layer in layers] for rate in rates]
    return layers, rates, np.array(values, float)
