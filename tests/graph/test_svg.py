"""The drawing is well-formed, shows everything once, and nothing lies on anything else."""

import itertools
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from jaxprune import graph
from jaxprune.graph._layout import Node, lay_out

NAME = '{http://www.w3.org/2000/svg}'


def make_graph(count, pairs):
    layers = tuple(
        graph.LayerInfo(index, f'l{index}', 4, index != count - 1, None if index != count - 1 else 'a < b')
        for index in range(count)
    )
    return graph.Graph(layers, tuple(graph.Edge(first, second, 0, 4) for first, second in pairs), ())


def test_document():
    found = make_graph(4, [(0, 1), (0, 2), (1, 3), (2, 3), (0, 3)])
    root = ElementTree.fromstring(graph.to_svg(found, {'l0': 'model.0 & more'}))
    texts = [''.join(each.itertext()) for each in root.iter(f'{NAME}text')]
    assert {'0 · model.0 & more', '1 · l1', 'l0', '4 ch', '4 layers, 5 edges'} <= set(texts)
    assert len([path for path in root.iter(f'{NAME}path') if path.get('class') == 'edge']) == 5
    assert any('protected: a < b' in (title.text or '') for title in root.iter(f'{NAME}title'))


@pytest.mark.parametrize('seed', range(5))
def test_nothing_overlaps(seed):
    rng = np.random.default_rng(seed)
    pairs = [
        (int(first), second) for second in range(1, 30) for first in rng.choice(second, min(second, 2), replace=False)
    ]
    layout = lay_out(30, pairs, trunk_width=0.2)
    widths = {node: 1.0 if layout.rows[node.layer] == node.row else 0.2 for node in layout.x}
    for first, second in itertools.combinations(layout.x, 2):
        if first.row == second.row:
            apart = abs(layout.x[first] - layout.x[second])
            assert apart >= (widths[first] + widths[second]) / 2 - 1e-9
    assert all(layout.rows[first] < layout.rows[second] for first, second in pairs)
    assert min(layout.x[node] - widths[node] / 2 for node in layout.x) == pytest.approx(0)


def test_straight_chain_and_crossing():
    chain = lay_out(4, [(0, 1), (1, 2), (2, 3)])
    assert len({round(x, 6) for x in chain.x.values()}) == 1
    crossed = lay_out(5, [(0, 1), (0, 2), (1, 4), (2, 3)])
    assert (crossed.x[Node(1, 1)] < crossed.x[Node(2, 1)]) == (crossed.x[Node(4, 2)] < crossed.x[Node(3, 2)])


def test_loops_and_empty_graphs_are_drawn():
    looped = graph.to_svg(make_graph(3, [(0, 1), (1, 1), (1, 2), (2, 0)]), {})
    assert ElementTree.fromstring(looped) is not None
    assert ElementTree.fromstring(graph.to_svg(make_graph(0, []), {})) is not None
