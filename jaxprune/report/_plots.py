"""Plots of a whole run: accuracy against size, and both per iteration."""

from functools import partial
from typing import TYPE_CHECKING, Any

from jaxprune.report._summary import RunSummary
from jaxprune.report._theme import FIRST, INK, MUTED, PAPER, SECOND, figure, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIZE = (5.6, 3.5)


def trajectory(run: RunSummary) -> str:
    """mAP50-95 against the parameters that were removed, before and after fine-tuning, as SVG."""
    start = run.baseline.parameters
    removed = [0.0] + [100 * (1 - step.parameters / start) for step in run.iterations]
    after = [run.baseline.map50_95] + [step.map50_95_after for step in run.iterations]
    before = [step.map50_95_before_finetuning for step in run.iterations]
    with figure(11.4, 3.8) as (drawing, axes):
        axes.vlines(removed[1:], before, after[1:], color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)))
        axes.plot(removed, after, 'o-', color=FIRST)
        axes.plot(removed[1:], before, 'o', color=SECOND, markerfacecolor=PAPER, markeredgewidth=1.4)
        for number, point in enumerate(zip(removed, after, strict=True)):
            axes.annotate(str(number), point, (0, 7), textcoords='offset points', ha='center', fontsize=8)
        _frame(axes, 'Parameters removed, %', 'mAP50-95', top=max(after + before))
        millions = axes.secondary_xaxis('top', functions=(partial(_millions_left, start), partial(_removed, start)))
        millions.set_xlabel('Parameters left, millions')
        millions.spines['top'].set_visible(False)
        _legend(drawing, axes, {'after fine-tuning': ('o', FIRST, FIRST), 'as cut': ('o', SECOND, PAPER)})
        return to_svg(drawing, name='trajectory')


def _millions_left(start: int, removed: Any) -> Any:
    return start * (1 - removed / 100) / 1e6


def _removed(start: int, millions_left: Any) -> Any:
    return 100 * (1 - millions_left * 1e6 / start)


def accuracy(run: RunSummary) -> str:
    """mAP50-95 per iteration, before and after fine-tuning, as SVG."""
    numbers = [step.index for step in run.iterations]
    after = [step.map50_95_after for step in run.iterations]
    before = [step.map50_95_before_finetuning for step in run.iterations]
    with figure(*_SIZE) as (drawing, axes):
        axes.axhline(run.baseline.map50_95, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.vlines(numbers, before, after, color=FIRST, linewidth=5, alpha=0.22)
        axes.plot(numbers, after, 'o', color=FIRST)
        axes.plot(numbers, before, 'o', color=SECOND, markerfacecolor=PAPER, markeredgewidth=1.4)
        _frame(axes, 'Iteration', 'mAP50-95', top=max([run.baseline.map50_95, *after, *before]))
        _iterations(axes, numbers[0], numbers[-1], margin=0.6)
        dots = {'after fine-tuning': ('o', FIRST, FIRST), 'as cut': ('o', SECOND, PAPER)}
        _legend(drawing, axes, {'start': ('--', MUTED, MUTED), **dots})
        return to_svg(drawing, name='accuracy')


def cost(run: RunSummary) -> str:
    """Parameters and GFLOPs per iteration, in % of the start, as SVG."""
    numbers = [0] + [step.index for step in run.iterations]
    parameters = [100.0] + [100 * step.parameters / run.baseline.parameters for step in run.iterations]
    gflops = [100.0] + [100 * step.gflops / run.baseline.gflops for step in run.iterations]
    with figure(*_SIZE) as (drawing, axes):
        axes.plot(numbers, parameters, 'o-', color=FIRST)
        axes.plot(numbers, gflops, 's-', color=SECOND, markersize=4.8)
        for values, other, color in ((parameters, gflops, FIRST), (gflops, parameters, SECOND)):
            side = 'bottom' if values[-1] > other[-1] else 'top'  # the labels stay apart where the curves meet
            axes.annotate(
                f'{values[-1]:.0f} %', (numbers[-1], values[-1]), (7, 0), textcoords='offset points', va=side,
                color=color, fontweight='bold',
            )  # fmt: skip
        _frame(axes, 'Iteration', '% of the start', top=100)
        _iterations(axes, 0, numbers[-1], margin=max(0.6, 0.08 * numbers[-1]))
        _legend(drawing, axes, {'parameters': ('o-', FIRST, FIRST), 'GFLOPs': ('s-', SECOND, SECOND)})
        return to_svg(drawing, name='cost')


def _frame(axes: 'Axes', x_label: str, y_label: str, *, top: float) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_ylim(0, max(top, 1e-3) * 1.12)
    axes.grid(visible=False, axis='x')
    axes.spines['left'].set_visible(False)


def _iterations(axes: 'Axes', first: int, last: int, *, margin: float) -> None:
    """Whole numbers below the axes, at most about fifteen; `margin` leaves room on the right."""
    axes.set_xticks(range(first, last + 1, 1 + (last - first) // 15))
    axes.set_xlim(first - 0.6, last + margin)


def _legend(drawing: 'Figure', axes: 'Axes', entries: dict[str, tuple[str, str, str]]) -> None:
    """A legend above the axes; per label: Matplotlib's format, colour and fill."""
    handles = [
        axes.plot([], [], form, color=color, markerfacecolor=fill, markeredgewidth=1.4, label=label)[0]
        for label, (form, color, fill) in entries.items()
    ]
    drawing.legend(handles=handles, loc='outside upper right', ncols=3, frameon=False, labelcolor=INK, fontsize=9)
