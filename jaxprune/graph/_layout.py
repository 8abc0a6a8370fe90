"""Places for a drawing of layers: rows by longest path, columns with few crossings and straight lines.

The method is that of Sugiyama, Tagawa and Toda, "Methods for visual understanding of hierarchical system structures"
(1981), with one shared trunk for all edges that leave a layer.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize

Pair = tuple[int, int]


class Node(NamedTuple):
    """A layer (`row` is its own), or the trunk of its edges where that passes through a lower row."""

    layer: int
    row: int


@dataclasses.dataclass(frozen=True)
class Layout:
    """Centres of all nodes, in columns: `x[node]`, and the row of every layer."""

    rows: tuple[int, ...]
    x: dict[Node, float]

    def path(self, producer: int, consumer: int) -> list[Node]:
        """Nodes that an edge goes through, its ends included; only the ends where it goes up."""
        first, last = self.rows[producer], self.rows[consumer]
        return [*(Node(producer, row) for row in range(first, max(last, first + 1))), Node(consumer, last)]


def lay_out(count: int, pairs: Iterable[Pair], *, layer_width: float = 1.0, trunk_width: float = 0.2) -> Layout:
    """Places `count` layers joined by `pairs` (producer, consumer); pairs that go back up do not shape the drawing."""
    down = sorted({(producer, consumer) for producer, consumer in pairs if producer < consumer})
    rows = _rows(count, down)
    links = _links(rows, down)
    order = _order(rows, links)
    widths = {node: layer_width if rows[node.layer] == node.row else trunk_width for row in order for node in row}
    return Layout(rows, _columns(order, links, widths))


def _rows(count: int, pairs: Sequence[Pair]) -> tuple[int, ...]:
    rows = [0] * count
    for producer, consumer in sorted(pairs, key=lambda pair: pair[1]):
        rows[consumer] = max(rows[consumer], rows[producer] + 1)
    return tuple(rows)


def _links(rows: Sequence[int], pairs: Sequence[Pair]) -> list[tuple[Node, Node]]:
    """Lines between neighbouring rows."""
    links = set()
    for producer, consumer in pairs:
        trunk = [Node(producer, row) for row in range(rows[producer], rows[consumer])]
        links |= set(zip(trunk, [*trunk[1:], Node(consumer, rows[consumer])], strict=True))
    return sorted(links)


def _order(rows: Sequence[int], links: Sequence[tuple[Node, Node]], sweeps: int = 24) -> list[list[Node]]:
    """Nodes of each row from left to right, with the fewest crossings that the sweeps found."""
    nodes = {Node(layer, row) for layer, row in enumerate(rows)} | {node for link in links for node in link}
    order = [sorted(node for node in nodes if node.row == row) for row in range(max(rows, default=-1) + 1)]
    above, below = _neighbours(links)
    best, fewest = order, _crossings(order, below)
    for sweep in range(sweeps):
        downward = sweep % 2 == 0
        order = _sweep(order, above if downward else below, range(len(order)) if downward else range(len(order))[::-1])
        if (crossings := _crossings(order, below)) < fewest:
            best, fewest = order, crossings
    return best


def _neighbours(links: Sequence[tuple[Node, Node]]) -> tuple[dict[Node, list[Node]], dict[Node, list[Node]]]:
    above: dict[Node, list[Node]] = {}
    below: dict[Node, list[Node]] = {}
    for upper, lower in links:
        above.setdefault(lower, []).append(upper)
        below.setdefault(upper, []).append(lower)
    return above, below


def _sweep(order: list[list[Node]], neighbours: dict[Node, list[Node]], rows: Iterable[int]) -> list[list[Node]]:
    """Sorts row after row by the mean place of each node's neighbours in the row before."""
    sorted_rows = list(order)
    place: dict[Node, float] = {node: spot for row in order for spot, node in enumerate(row)}
    for row in rows:
        middle = _middle(neighbours, place)
        sorted_rows[row] = sorted(order[row], key=middle)
        place |= {node: spot for spot, node in enumerate(sorted_rows[row])}
    return sorted_rows


def _middle(neighbours: dict[Node, list[Node]], place: dict[Node, float]) -> Callable[[Node], float]:
    def middle(node: Node) -> float:
        near = neighbours.get(node)
        return sum(place[other] for other in near) / len(near) if near else place[node]

    return middle


def _crossings(order: Sequence[Sequence[Node]], below: dict[Node, list[Node]]) -> int:
    total = 0
    for upper, lower in itertools.pairwise(order):
        place = {node: spot for spot, node in enumerate(lower)}
        ends = [(spot, place[end]) for spot, node in enumerate(upper) for end in below.get(node, [])]
        left, right = np.reshape(ends, (-1, 1, 2)), np.reshape(ends, (1, -1, 2))
        total += int(np.sum((left[..., 0] < right[..., 0]) & (left[..., 1] > right[..., 1])))
    return total


def _columns(
    order: Sequence[Sequence[Node]], links: Sequence[tuple[Node, Node]], widths: dict[Node, float], rounds: int = 60
) -> dict[Node, float]:
    """Pulls every node to its neighbours, and trunks straight, as far as the width of what stands beside allows."""
    above, below = _neighbours(links)
    nodes = [node for row in order for node in row]
    near = {node: [*above.get(node, []), *below.get(node, [])] or [node] for node in nodes}
    trunks: dict[int, list[Node]] = {}
    for node in nodes:
        trunks.setdefault(node.layer, []).append(node)
    x = {node: float(spot) for row in order for spot, node in enumerate(row)}
    for turn in range(rounds):
        straight = {layer: _mean(trunk[1:] or trunk, x) for layer, trunk in trunks.items()}
        for row in order if turn % 2 == 0 else order[::-1]:
            wanted = {
                node: _mean(near[node], x) if node == trunks[node.layer][0] else straight[node.layer] for node in row
            }
            x |= _spread(row, wanted, widths)
    left = min((x[node] - widths[node] / 2 for node in x), default=0.0)
    return {node: place - left for node, place in x.items()}


def _mean(nodes: Sequence[Node], x: dict[Node, float]) -> float:
    return sum(x[node] for node in nodes) / len(nodes)


def _spread(row: Sequence[Node], wanted: dict[Node, float], widths: dict[Node, float]) -> dict[Node, float]:
    """The places nearest to the wanted ones (least squares) at which the nodes of a row do not touch."""
    if not row:
        return {}
    gaps = [0.0] + [(widths[left] + widths[right]) / 2 for left, right in itertools.pairwise(row)]
    offsets = np.cumsum(gaps)
    free = optimize.isotonic_regression(np.array([wanted[node] for node in row]) - offsets).x
    return dict(zip(row, (float(place) for place in free + offsets), strict=True))
