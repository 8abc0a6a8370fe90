"""A connectivity graph as a drawing that any browser shows."""

import html
from collections.abc import Iterator, Mapping

from jaxprune.graph._layout import Layout, Node, lay_out
from jaxprune.graph._types import Edge, Graph, LayerInfo

_BOX = (164.0, 38.0)
_CELL = (184.0, 74.0)
_MARGIN, _HEADER = 28.0, 64.0
_TRUNK = 22.0
_INK, _PAPER = '#1d2733', '#ffffff'
_PRUNABLE, _PROTECTED = ('#e8f1fb', '#3b78b5'), ('#fdeee6', '#c2571a')
_LINES = ('#4e79a7', '#59a14f', '#b07aa1', '#9c755f', '#e08214', '#76b7b2', '#d1615d', '#79706e')
_STYLE = f"""
text {{ font-family: system-ui, 'DejaVu Sans', sans-serif; fill: {_INK}; }}
.head {{ font-size: 17px; font-weight: 600; }}
.title {{ font-size: 13px; font-weight: 600; }}
.small {{ font-size: 10.5px; fill: #5a6775; }}
.offset {{ font-size: 9px; fill: #5a6775; text-anchor: middle; }}
.offset {{ paint-order: stroke; stroke: {_PAPER}; stroke-width: 3; }}
.edge {{ fill: none; stroke-width: 1.6; opacity: 0.85; }} .edge:hover {{ stroke-width: 4; opacity: 1; }}
"""


def to_svg(graph: Graph, labels: Mapping[str, str]) -> str:
    """Layers from top to bottom by their longest path from the input, edges as curves.

    Edges enter their reader in the order of their offsets on its input, which are written there. Pointing at anything
    shows what it is.

    Args:
      graph: to be drawn.
      labels: layer name -> a second name (such as PyTorch's); may lack layers.

    Returns:
      A whole SVG document.
    """
    layout = lay_out(
        len(graph.layers),
        [(edge.producer, edge.consumer) for edge in graph.edges],
        trunk_width=_TRUNK / _CELL[0],
    )
    right = max((x for x in layout.x.values()), default=0.0)
    width = max(2 * _MARGIN + _CELL[0] * (right + 0.5), 620.0)
    height = _HEADER + _MARGIN + _CELL[1] * (max(layout.rows, default=0) + 1)
    body = [*_header(graph), *_edges(graph, layout), *_boxes(graph, layout, labels)]
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    start = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{_STYLE}</style>'
    return '\n'.join([start, f'<rect width="100%" height="100%" fill="{_PAPER}"/>', *body, '</svg>', ''])


def _header(graph: Graph) -> Iterator[str]:
    yield f'<text class="head" x="{_MARGIN}" y="30">{len(graph.layers)} layers, {len(graph.edges)} edges</text>'
    for place, (text, (fill, stroke)) in enumerate((('prunable', _PRUNABLE), ('protected', _PROTECTED))):
        x = _MARGIN + 260 + 110 * place
        yield f'<rect x="{x}" y="17" width="18" height="14" rx="3" fill="{fill}" stroke="{stroke}"/>'
        yield f'<text class="small" x="{x + 24}" y="28">{text}</text>'


def _centre(layout: Layout, node: Node) -> tuple[float, float]:
    return _MARGIN + _CELL[0] * layout.x[node], _HEADER + _CELL[1] * node.row + _BOX[1] / 2


def _boxes(graph: Graph, layout: Layout, labels: Mapping[str, str]) -> Iterator[str]:
    for layer in graph.layers:
        x, y = _centre(layout, Node(layer.index, layout.rows[layer.index]))
        yield from _box(layer, labels.get(layer.name, ''), x - _BOX[0] / 2, y - _BOX[1] / 2)


def _box(layer: LayerInfo, label: str, x: float, y: float) -> Iterator[str]:
    fill, stroke = _PRUNABLE if layer.prunable else _PROTECTED
    tip = f'{layer.index} {layer.name}: {layer.channels} channels'
    tip += f'; protected: {layer.reason}' if layer.reason else ''
    yield f'<g><title>{html.escape(tip)}</title>'
    yield f'<rect x="{x:.1f}" y="{y:.1f}" width="{_BOX[0]}" height="{_BOX[1]}" rx="6" fill="{fill}" stroke="{stroke}"/>'
    title = f'{layer.index} · {html.escape(label or layer.name)}'
    yield f'<text class="title" x="{x + 9:.1f}" y="{y + 16:.1f}">{title}</text>'
    if label:
        yield f'<text class="small" x="{x + 9:.1f}" y="{y + 30:.1f}">{html.escape(layer.name)}</text>'
    channels = f'{layer.channels} ch'
    yield f'<text class="small" text-anchor="end" x="{x + _BOX[0] - 9:.1f}" y="{y + 30:.1f}">{channels}</text></g>'


def _edges(graph: Graph, layout: Layout) -> Iterator[str]:
    offsets: dict[int, set[int]] = {}
    for edge in graph.edges:
        offsets.setdefault(edge.consumer, set()).add(edge.offset)
    for edge in graph.edges:
        ports = sorted(offsets[edge.consumer])
        port = ((ports.index(edge.offset) + 0.5) / len(ports) - 0.5) * _BOX[0]
        yield _curve(graph, layout, edge, port, several=len(ports) > 1)


def _curve(graph: Graph, layout: Layout, edge: Edge, port: float, *, several: bool) -> str:
    points = [_centre(layout, node) for node in layout.path(edge.producer, edge.consumer)]
    (x, y), path = points[0], []
    y += _BOX[1] / 2
    path.append(f'M{x:.1f} {y:.1f}')
    for x_next, y_next in points[1:-1]:
        path.append(_bend(x, y, x_next, y_next - _BOX[1] / 2) + f'V{y_next + _BOX[1] / 2:.1f}')
        x, y = x_next, y_next + _BOX[1] / 2
    end, top = points[-1][0] + port, points[-1][1] - _BOX[1] / 2
    path.append(_bend(x, y, end, top))
    producer, consumer = graph.layers[edge.producer], graph.layers[edge.consumer]
    tip = f'{producer.name} → {consumer.name}: {edge.channels} channels from place {edge.offset} on'
    stroke = _LINES[edge.producer % len(_LINES)]
    note = f'<text class="offset" x="{end:.1f}" y="{top - 3:.1f}">{edge.offset}</text>' if several else ''
    return f'<path class="edge" stroke="{stroke}" d="{" ".join(path)}"><title>{html.escape(tip)}</title></path>{note}'


def _bend(x: float, y: float, x_end: float, y_end: float) -> str:
    middle = (y + y_end) / 2
    return f'C{x:.1f} {middle:.1f} {x_end:.1f} {middle:.1f} {x_end:.1f} {y_end:.1f}'
