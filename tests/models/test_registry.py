"""Architectures against the published sizes and tables, in every form."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxprune import models
from jaxprune.errors import UserError

NAMES = models.architectures()


def _stored(spec):
    return sum(leaf.size for leaf in jax.tree.leaves(models.shapes(spec)['params']))


PUBLISHED = ('yolov7', 'yolov7-tiny')  # those that the published tables of pruned models are about


@pytest.mark.parametrize('form', ['training', 'deploy'])
@pytest.mark.parametrize('name', NAMES)
def test_sizes_are_those_of_the_pytorch_implementation(golden, name, form):
    rows = json.loads((golden / 'family' / 'sizes.json').read_text())['rows']
    of_form = {row['architecture']: row for row in rows if row['form'] == form}
    row = (
        of_form.get(name) or of_form[name.removesuffix('-silu')]
    )  # of this one, the original has the deploy form alone
    spec = models.build_spec(name, classes=row['classes'], form=form)
    cost = models.spec_cost(spec, row['image_size'])
    assert _stored(spec) == row['parameters']
    assert cost.parameters_published == row['parameters_published']
    assert round(cost.gflops, 3) == row['gflops']


def test_every_size_is_tested(golden):
    rows = json.loads((golden / 'family' / 'sizes.json').read_text())['rows']
    assert len(rows) == 15
    assert {row['architecture'] for row in rows} == set(NAMES)


@pytest.mark.parametrize('name', NAMES)
def test_forms_differ_by_the_auxiliary_part_alone(name):
    """A training form that is turned into a deploy form is the deploy form, but for the names of its heads."""
    training, deploy = (models.build_spec(name, form=form) for form in ('training', 'deploy'))
    turned = models.with_form(training, 'deploy')
    names = dict(zip(turned.outputs, deploy.outputs, strict=True))
    renamed = [
        dataclasses.replace(node, name=names[node.name], pytorch_name=names[node.name].replace('_', '.'))
        if node.name in names
        else node
        for node in turned.nodes
    ]
    expected = [
        dataclasses.replace(node, pytorch_name=node.name.replace('_', '.')) if node.name in names.values() else node
        for node in deploy.nodes
    ]
    assert renamed == expected
    assert bool(training.auxiliary) is (name[-2:] in ('w6', 'e6', 'd6', '6e'))
    assert (turned.auxiliary, deploy.auxiliary) == ((), ())
    fused = models.spec_cost(models.with_form(training, 'fused'), 64)
    assert fused.gflops == models.spec_cost(deploy, 64).gflops


@pytest.mark.parametrize('name', PUBLISHED)
def test_layers_stand_in_the_published_order(golden, name):
    published = json.loads((golden / 'pruning' / f'{name}.json').read_text())['conv_names_in_pytorch']
    assert [layer.pytorch_name for layer in models.build_spec(name).layers] == published


def test_another_activation():
    spec = models.build_spec('yolov7-w6', activation='relu6')
    assert spec == models.with_activation(models.build_spec('yolov7-w6'), 'relu6')
    assert {getattr(node, 'activation', 'relu6') for node in spec.nodes} == {'relu6'}
    tiny, silu = (models.build_spec(name) for name in ('yolov7-tiny', 'yolov7-tiny-silu'))
    assert models.with_activation(tiny, 'silu').nodes == silu.nodes
    assert {node.activation for node in tiny.layers if hasattr(node, 'activation')} == {'leaky_relu:0.1'}
    with pytest.raises(UserError, match='swish2'):
        models.build_spec('yolov7', activation='swish2')


@pytest.mark.parametrize('form', models.FORMS)
@pytest.mark.parametrize('name', NAMES)
def test_spec_survives_json(name, form):
    spec = models.build_spec(name, classes=['cat', 'dog'], form=form, width_multiple=0.5)
    assert models.ArchSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_trajectory(golden, name):
    """The 14 published iterations, applied to a fresh spec: parameters exact, GFLOPs to 3 decimals."""
    from jaxprune import pruning

    reference = json.loads((golden / 'pruning' / f'{name}.json').read_text())
    spec = models.build_spec(name, classes=80, form=reference['form'])
    published = {row['iteration']: row for row in reference['published']}
    assert len(published) == 15
    for step in [{'iteration': 0, 'layers': []}, *reference['iterations']]:
        widths = {layer.name: layer.channels for layer in spec.layers}
        for row in step['layers']:
            name = spec.layers[row['layer']].name
            widths[name] -= pruning.removed_filters(widths[name], row['rate'])
        spec = spec.resize(widths)
        cost = models.spec_cost(spec, 640)
        expected = published[step['iteration']]
        assert (cost.parameters_published, round(cost.gflops, 3)) == (expected['parameters'], expected['gflops_640'])


@pytest.mark.parametrize(
    ('options', 'word'),
    [
        ({'name': 'yolov9'}, 'yolov9'),
        ({'form': 'frozen'}, 'frozen'),
        ({'classes': 0}, '0'),
        ({'classes': ['a', 'b\x1b[31m']}, 'cannot be shown'),
        ({'width_multiple': -1.0}, '-1'),
    ],
)
def test_impossible_model_is_refused(options, word):
    options = {'name': 'yolov7-tiny', **options}
    with pytest.raises(UserError, match=word):
        models.create(options.pop('name'), **options)


def test_width_multiple_and_classes():
    model, variables = models.create('yolov7-tiny', classes=['a', 'b'], width_multiple=0.25, seed=1)
    again = models.create('yolov7-tiny', classes=['a', 'b'], width_multiple=0.25, seed=1)[1]
    other = models.create('yolov7-tiny', classes=['a', 'b'], width_multiple=0.25, seed=2)[1]
    assert model.spec.layers[0].channels == 8
    assert models.predict(model, variables, np.zeros((2, 64, 96, 3), np.float32)).shape == (2, 3 * (96 + 24 + 6), 7)
    same = jax.tree.map(np.array_equal, variables, again)
    assert all(jax.tree.leaves(same))
    assert not np.array_equal(
        variables['params']['model_0']['conv']['kernel'], other['params']['model_0']['conv']['kernel']
    )


def test_image_size_must_fit_the_stride():
    model, variables = models.create('yolov7-tiny', classes=1, width_multiple=0.125)
    with pytest.raises(UserError, match='100'):
        models.predict(model, variables, np.zeros((1, 100, 64, 3), np.float32))
    with pytest.raises(UserError, match='stride 32'):
        models.count(model, variables, image_size=(64, 33))


def test_spec_refuses_groups_that_do_not_divide():
    spec = models.build_spec('yolov7-tiny')
    nodes = (spec.nodes[0], dataclasses.replace(spec.nodes[1], groups=5), *spec.nodes[2:])
    with pytest.raises(UserError, match=r"'model_1' has 5 groups"):
        dataclasses.replace(spec, nodes=nodes)


def test_spec_refuses_a_node_that_reads_a_later_one():
    spec = models.build_spec('yolov7-tiny')
    with pytest.raises(UserError, match='before it is defined'):
        dataclasses.replace(spec, nodes=spec.nodes[::-1])
