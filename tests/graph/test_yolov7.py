"""The connectivity that the original pruning code found in its PyTorch models."""

import json
import time

import pytest

from jaxprune import graph, models


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


def test_every_layer_is_a_group_of_its_own():
    spec = models.build_spec('yolov7')
    found = models.connectivity(spec)
    assert [group.layers for group in found.groups] == [(node.name,) for node in spec.layers]
    assert [group.channels for group in found.groups] == [layer.channels for layer in found.layers]
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
