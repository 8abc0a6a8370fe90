"""The connectivity that the original pruning code found in its PyTorch models."""

import json
import time

import pytest

from jaxprune import graph, models
from jaxprune.models.spec import IMAGE


def golden_edges(golden, name):
    plain = json.loads((golden / 'pruning' / f'{name}.json').read_text())
    keys = ('producer', 'consumer', 'offset', 'channels')
    return sorted(tuple(edge[key] for key in keys) for edge in plain['edges']), plain


@pytest.mark.parametrize(('name', 'count'), [('yolov7', 145), ('yolov7-tiny', 93)])
@pytest.mark.parametrize('form', models.FORMS)
def test_edges_of_the_original(golden, name, count, form):
    spec = models.build_spec(name, form=form)
    found = models.connectivity(spec)
    expected, plain = golden_edges(golden, name)
    assert [tuple(edge.values()) for edge in found.to_json()['edges']] == expected
    assert len(expected) == count
    assert [node.pytorch_name for node in spec.layers] == plain['conv_names_in_pytorch']
    assert [layer.index for layer in found.layers if layer.prunable] == list(range(plain['prunable_convs']))
    assert all(layer.reason == 'its channels are the output of the model' for layer in found.layers[-3:])


@pytest.mark.parametrize('name', ['yolov7', 'yolov7-tiny'])
def test_inputs_of_the_original(golden, name):
    """Edges fill the input axis of every reader completely, as wide as the original's."""
    found = models.connectivity(models.build_spec(name))
    _, plain = golden_edges(golden, name)
    widths = {edge['consumer']: edge['consumer_inputs'] for edge in plain['edges']}
    places = {consumer: [] for consumer in widths}
    for edge in found.edges:
        places[edge.consumer] += range(edge.offset, edge.offset + edge.channels)
    assert {consumer: sorted(each) for consumer, each in places.items()} == {
        consumer: list(range(width)) for consumer, width in widths.items()
    }


def wiring(spec):
    """Edges by following concatenations through the spec, in place of the traced model."""
    index = {node.name: place for place, node in enumerate(spec.layers)}
    runs = {IMAGE: []}  # per node: (layer, offset of its channels)
    widths, edges = spec.widths(), []
    for node in spec.nodes:
        sources, start = [], 0
        for name in node.inputs:
            sources += [(layer, start + offset) for layer, offset in runs[name]]
            start += widths[name] if node.op == 'concat' else 0
        edges += [(layer, index[node.name], offset) for layer, offset in sources] if node.name in index else []
        runs[node.name] = [(index[node.name], 0)] if node.name in index else sources
    return sorted(edges)


@pytest.mark.parametrize('name', models.architectures())
def test_edges_follow_the_wiring(name):
    spec = models.build_spec(name, width_multiple=0.25)
    found = models.connectivity(spec)
    assert [(edge.producer, edge.consumer, edge.offset) for edge in found.edges] == wiring(spec)
    assert all(edge.channels == spec.layers[edge.producer].channels for edge in found.edges)
    outputs = {*spec.outputs, *spec.auxiliary}
    assert {layer.name for layer in found.layers if not layer.prunable} == outputs
    assert len(outputs) == len(spec.strides) * (2 if spec.auxiliary else 1)


def test_layers_that_are_added_are_one_group():
    spec = models.build_spec('yolov7-e6e')
    groups = [group.layers for group in models.connectivity(spec).groups if len(group.layers) > 1]
    assert groups == [node.inputs[::-1] for node in spec.nodes if node.op == 'add']
    assert len(groups) == 11


def test_every_other_layer_is_a_group_of_its_own():
    spec = models.build_spec('yolov7')
    found = models.connectivity(spec)
    assert [group.layers for group in found.groups] == [(node.name,) for node in spec.layers]
    counts = [(group.channels, layer.channels) for group, layer in zip(found.groups, found.layers, strict=True)]
    assert all(group == layer for group, layer in counts[:-3])
    assert counts[-3:] == [(85, 255)] * 3  # one for each anchor, which go together
    repeated = found.group_of('model_102')  # three kernels' worth of places: 3×3, 1×1, and what reads them
    assert [slot.path[2] for slot in repeated.slots if slot.role == 'produce'] == ['dense', 'pointwise']


def test_tracing_is_fast():
    spec = models.build_spec('yolov7')
    start = time.perf_counter()
    models.connectivity.__wrapped__(spec)
    assert time.perf_counter() - start < 5  # 0.5 s on an idle machine, most of it in `jax.make_jaxpr`


def test_drawing():
    spec = models.build_spec('yolov7')
    drawing = graph.to_svg(models.connectivity(spec), {node.name: node.pytorch_name for node in spec.layers})
    assert drawing.count('class="edge"') == 145
    assert all(f'· {node.pytorch_name}</text>' in drawing for node in spec.layers)
