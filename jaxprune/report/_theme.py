"""Figures as inline SVG that takes its colours and its font from the page, in light and in dark."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-ins: Matplotlib writes them into the SVG, where they become variables of the page's style sheet.
INK, MUTED, GRID, PAPER, FIRST, SECOND = ('#0a0b0c', '#1a1b1c', '#2a2b2c', '#3a3b3c', '#4a4b4c', '#5a5b5c')
_VARIABLES = {INK: 'ink', MUTED: 'muted', GRID: 'line', PAPER: 'paper', FIRST: 'first', SECOND: 'second'}
_STYLE: dict[Any, Any] = {
    'svg.fonttype': 'none',  # text stays text: it can be selected and read aloud
    'font.size': 9,
    'text.color': INK,
    'axes.edgecolor': GRID,
    'axes.labelcolor': MUTED,
    'axes.labelsize': 9,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'axes.axisbelow': True,
    'grid.color': GRID,
    'grid.linewidth': 0.6,
    'xtick.color': GRID,
    'ytick.color': GRID,
    'xtick.labelcolor': MUTED,
    'ytick.labelcolor': MUTED,
    'xtick.major.size': 0,
    'ytick.major.size': 0,
    'lines.linewidth': 1.8,
    'lines.markersize': 5.5,
}


@contextmanager
def figure(width: float, height: float) -> Iterator[tuple['Figure', 'Axes']]:
    """A figure of `width` × `height` inches in the report's style, and its axes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        drawing = Figure(figsize=(width, height), layout='constrained')
        yield drawing, drawing.subplots()


def to_svg(drawing: 'Figure', *, name: str) -> str:
    """The figure as an SVG element to be put into a page; `name` keeps its ids apart from other figures'.

    The same figure gives the same text in every run.
    """
    import matplotlib as mpl

    buffer = StringIO()
    with mpl.rc_context(_STYLE | {'svg.hashsalt': name}):
        drawing.savefig(buffer, format='svg', transparent=True, metadata={'Date': None})
    svg = buffer.getvalue()
    svg = svg[svg.index('<svg') :]
    svg = re.sub(r'<metadata>.*?</metadata>', '', svg, flags=re.DOTALL)
    svg = re.sub(r'^(<svg[^>]*?) width="[^"]*"', r'\1', svg)
    svg = re.sub(r'^(<svg[^>]*?) height="[^"]*"', r'\1 aria-hidden="true"', svg)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf'\g<1>{name}-', svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f'var(--{variable})')
    return svg
