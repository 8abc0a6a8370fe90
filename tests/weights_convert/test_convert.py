"""Converted checkpoints compute what PyTorch computes with them."""

import pathlib

import numpy as np
import pytest

from jaxprune import models
from weights_convert import ConversionError, convert_checkpoint

SMALL = pathlib.Path(__file__).parents[1] / 'golden' / 'convert'  # made by make_golden.py
FAMILY = ('training-yolov7', 'deploy-yolov7', 'training-yolov7-tiny', 'deploy-yolov7-tiny')
MORE = ('training-yolov7x', 'deploy-yolov7x', 'deploy-yolov7-tiny-silu')


@pytest.fixture
def find(golden):
    """The path of a reference checkpoint; too large to be copied into the repository."""

    def path(name):
        if not (golden / name).exists():
            pytest.skip(f'{name} is not beside this checkout')
        return golden / name

    return path


def _heads(converted, images):
    return [np.asarray(head) for head in models.heads(models.Detector(converted.spec), converted.variables, images)]


def _error(actual, expected):
    return np.abs(actual - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(
    ('file', 'form'),
    [
        ('zip', 'training'),  # float32; every module, setting and activation that the converter knows
        ('legacy', 'training'),  # float16, the format before PyTorch 1.6, in `ema` beside another `model`
        ('views', 'training'),  # bfloat16, channels-last, shared and expanded storages, DataParallel, pickle protocol 4
        ('fused', 'fused'),  # biases in place of BN, `rbr_reparam`, implicits folded
    ],
)
def test_computes_what_pytorch_computes(file, form):
    converted = convert_checkpoint(SMALL / f'{file}.pt')
    expected = np.load(SMALL / 'outputs.npz')
    heads = _heads(converted, expected['image'].transpose(0, 2, 3, 1))
    assert (converted.spec.name, converted.spec.form) == ('mixed', form)
    for level, head in enumerate(heads):
        assert _error(head, expected[f'{file}{level}']) < 2e-6


def test_takes_everything_from_the_module_tree():
    spec = convert_checkpoint(SMALL / 'zip.pt', name='mine').spec
    nodes = {node.name: node for node in spec.nodes}
    assert spec.name == 'mine'
    assert spec.classes == ('cat', 'dog')
    assert spec.anchors == (((4.0, 5.0), (7.25, 9.0)), ((11.0, 6.0), (20.0, 21.0)))
    assert spec.strides == (2, 4)
    assert spec.outputs == ('model_14_m_0', 'model_14_m_1')
    assert [nodes[f'model_{index}'].identity for index in (2, 4)] == [True, False]
    assert nodes['model_1'].activation == 'leaky_relu:0.2'
    assert nodes['model_1'].groups == 2
    assert nodes['model_1'].epsilon == 1e-3
    assert nodes['model_9'].epsilon is None
    assert [nodes[f'model_10_{part}'].activation for part in (0, 1)] == ['relu6', 'hardswish']
    assert (nodes['model_11'].kernel, nodes['model_11'].dilation) == ((3, 5), (2, 2))
    assert nodes['model_6_cv7'].pytorch_name == 'model.6.cv7'
    parts = [node.pytorch_name for node in spec.layers if node.name.startswith('model_6_')]
    assert parts == [f'model.6.cv{part}' for part in range(1, 8)]


def test_report_names_every_tensor():
    converted = convert_checkpoint(SMALL / 'views.pt')
    report = {row.name: row for row in converted.report}
    assert report['model.0.conv.weight'].destination == 'params/model_0/conv/kernel'
    assert report['model.0.conv.weight'].shape == (8, 3, 3, 3)
    assert report['model.0.conv.weight'].dtype == 'bfloat16'
    assert report['model.2.rbr_identity.running_var'].destination == 'batch_stats/model_2/identity/var'
    assert report['model.14.ia.1.implicit'].destination == 'params/model_14_m_1/implicit_add'
    assert report['model.0.bn.num_batches_tracked'].destination == 'not needed'
    leaves = [row for row in converted.report if row.destination.startswith(('params/', 'batch_stats/'))]
    expected = models.shapes(converted.spec)
    assert len(leaves) == sum(len(_leaves(expected[collection])) for collection in expected)
    assert converted.unexpected_calls == ()


def _leaves(tree):
    return [leaf for value in tree.values() for leaf in (_leaves(value) if isinstance(value, dict) else [value])]


@pytest.mark.parametrize('file', [*FAMILY, *MORE])
def test_family_computes_what_the_original_computes(find, file):
    converted = convert_checkpoint(find(f'family/{file}.pt'))
    expected = np.load(find(f'family/{file}.npz'))
    images = expected['image'].transpose(0, 2, 3, 1)
    heads = _heads(converted, images)
    assert converted.spec.form == file.partition('-')[0]
    assert converted.spec.strides == tuple(expected['stride'])
    np.testing.assert_array_equal(np.asarray(converted.spec.anchors), expected['anchors'])
    for level, head in enumerate(heads):
        assert _error(head.transpose(0, 3, 1, 2, 4), expected[f'raw{level}']) < 2e-5
    decoded = np.asarray(models.predict(models.Detector(converted.spec), converted.variables, images))
    assert _error(decoded[..., :4], expected['decoded'][..., :4]) < 2e-5
    assert np.abs(decoded[..., 4:] - expected['decoded'][..., 4:]).max() < 2e-5


@pytest.mark.parametrize('file', FAMILY)
def test_family_has_the_architecture_of_the_registry(find, file):
    form, _, name = file.partition('-')
    spec = convert_checkpoint(find(f'family/{file}.pt'), name=name).spec
    built = models.build_spec(name, classes=spec.classes, form=form, width_multiple=0.125)
    assert [node for node in spec.nodes if node not in built.nodes] == []
    assert spec == built


def test_trained_checkpoint_computes_what_the_original_computes(find):
    converted = convert_checkpoint(find('trained/yolov7-tiny-bccd.pt'))
    expected = np.load(find('trained/nms.npz'))
    images = expected['image'].transpose(0, 2, 3, 1)
    decoded = np.asarray(models.predict(models.Detector(converted.spec), converted.variables, images))
    assert converted.spec.classes == ('RBC', 'WBC', 'Platelets')
    assert _error(decoded[..., :4], expected['input'][..., :4]) < 2e-5
    assert np.abs(decoded[..., 4:] - expected['input'][..., 4:]).max() < 2e-5


@pytest.mark.parametrize('architecture', ['w6', 'e6', 'd6', 'e6e'])
def test_module_without_translation_is_named(find, architecture):
    with pytest.raises(
        ConversionError, match=r'deploy-yolov7-\w+.pt: model.0 \(models.common.ReOrg\).*supported are Conv'
    ):
        convert_checkpoint(find(f'family/deploy-yolov7-{architecture}.pt'))
