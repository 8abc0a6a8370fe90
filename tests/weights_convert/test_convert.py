"""Converted checkpoints compute what PyTorch computes with them."""

import pathlib

import numpy as np
import pytest

from jaxprune import detection, models
from weights_convert import ConversionError, convert_checkpoint
from weights_convert._entries import find as find_network
from weights_convert._modules import network
from weights_convert._plain import Object
from weights_convert._storage import open_checkpoint
from weights_convert._tree import tree_spec

SMALL = pathlib.Path(__file__).parents[1] / 'golden' / 'convert'  # made by make_golden.py
ARCHITECTURES = ('yolov7', 'yolov7x', 'yolov7-tiny', 'yolov7-w6', 'yolov7-e6', 'yolov7-d6', 'yolov7-e6e')
FAMILY = (*(f'{form}-{name}' for name in ARCHITECTURES for form in ('training', 'deploy')), 'deploy-yolov7-tiny-silu')


def _heads(converted, images):
    return [np.asarray(head) for head in models.heads(models.Detector(converted.spec), converted.variables, images)]


def _error(actual, expected):
    return np.abs(actual - expected).max() / np.abs(expected).max()


@pytest.mark.optimized
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


@pytest.mark.parametrize(
    ('file', 'form', 'heads'),
    [
        ('blocks', 'training', 4),  # composite modules, auxiliary heads, in an object with the average, legacy format
        ('blocks_fused', 'fused', 2),  # auxiliary heads that are no longer computed; compiled by torch.compile
    ],
)
def test_composite_modules_compute_what_pytorch_computes(file, form, heads):
    converted = convert_checkpoint(SMALL / f'{file}.pt')
    expected = np.load(SMALL / 'blocks.npz')
    images = expected['image'].transpose(0, 2, 3, 1)
    found = models.heads(models.Detector(converted.spec), converted.variables, images, auxiliary=True)
    assert (converted.spec.name, converted.spec.form, len(found)) == ('blocks', form, heads)
    assert converted.unexpected_calls == ()
    for level, head in enumerate(found):
        assert _error(np.asarray(head), expected[f'{file}{level}']) < 2e-6


def test_order_of_the_layers_in_a_downc_and_what_only_auxiliary_heads_read():
    layers = [node.pytorch_name for node in convert_checkpoint(SMALL / 'blocks.pt').spec.layers]
    fused = [node.pytorch_name for node in convert_checkpoint(SMALL / 'blocks_fused.pt').spec.layers]
    assert layers[:4] == ['model.1', 'model.2.cv1', 'model.2.cv2', 'model.2.cv3']
    assert layers[-4:] == ['model.18.m.0', 'model.18.m.1', 'model.18.m2.0', 'model.18.m2.1']
    assert [name for name in layers if name not in fused] == [
        *('model.12.conv', 'model.17', 'model.18.m2.0', 'model.18.m2.1'),
    ]


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


@pytest.mark.parametrize('file', FAMILY)
def test_family_computes_what_the_original_computes(find, file):
    converted = convert_checkpoint(find(f'family/{file}.pt'))
    expected = np.load(find(f'family/{file}.npz'))
    images = expected['image'].transpose(0, 2, 3, 1)
    model, levels = models.Detector(converted.spec), len(expected['stride'])
    heads = [np.asarray(head) for head in models.heads(model, converted.variables, images, auxiliary=True)]
    assert converted.spec.form == file.partition('-')[0]
    assert converted.spec.strides == tuple(expected['stride'])
    assert len(heads) == sum(key.startswith('train') for key in expected)  # lead, then auxiliary
    np.testing.assert_array_equal(np.asarray(converted.spec.anchors), expected['anchors'])
    for level, head in enumerate(heads):
        assert _error(head.transpose(0, 3, 1, 2, 4), expected[f'train{level}']) < 2e-5
    for level, head in enumerate(heads[:levels]):
        assert _error(head.transpose(0, 3, 1, 2, 4), expected[f'raw{level}']) < 2e-5
    anchors = np.asarray(converted.spec.anchors, np.float32)
    decoded = np.asarray(detection.decode(heads[:levels], anchors, converted.spec.strides))
    assert _error(decoded[..., :4], expected['decoded'][..., :4]) < 2e-5
    assert np.abs(decoded[..., 4:] - expected['decoded'][..., 4:]).max() < 2e-5
    for fused, head in zip(
        models.heads(*models.to_form(model, converted.variables, 'fused'), images), heads, strict=False
    ):
        assert _error(np.asarray(fused), head) < 1e-4


@pytest.mark.parametrize('file', FAMILY)
def test_family_has_the_architecture_of_the_registry(find, file):
    form, _, name = file.partition('-')
    spec = convert_checkpoint(find(f'family/{file}.pt'), name=name).spec
    built = models.build_spec(name, classes=spec.classes, form=form, width_multiple=0.125)
    assert [node for node in spec.nodes if node not in built.nodes] == []
    assert spec == built


@pytest.mark.optimized
def test_trained_checkpoint_computes_what_the_original_computes(find):
    converted = convert_checkpoint(find('trained/yolov7-tiny-bccd.pt'))
    expected = np.load(find('trained/nms.npz'))
    images = expected['image'].transpose(0, 2, 3, 1)
    decoded = np.asarray(models.predict(models.Detector(converted.spec), converted.variables, images))
    assert converted.spec.classes == ('RBC', 'WBC', 'Platelets')
    assert _error(decoded[..., :4], expected['input'][..., :4]) < 2e-5
    assert np.abs(decoded[..., 4:] - expected['input'][..., 4:]).max() < 2e-5


@pytest.mark.parametrize(
    ('attributes', 'message'),
    [
        ({'_forward_hooks': {0: None}}, r'model\.1 \(models\.common\.Conv\) has forward hooks'),
        ({'_forward_pre_hooks': {0: None}}, 'has forward hooks'),
        ({'forward': Object('builtins.getattr', (None, 'other'))}, 'has a forward of its own'),
        ({'forward': Object('builtins.getattr', (None, 'fuseforward'))}, 'has a forward of its own'),  # and BN is there
    ],
)
def test_code_in_place_of_a_class_is_refused(attributes, message):
    with open_checkpoint(SMALL / 'zip.pt') as checkpoint:
        root = find_network(checkpoint.value)
        layers = root.attributes['_modules']['model']
        layers.attributes['_modules']['1'].attributes.update(attributes)
        with pytest.raises(ConversionError, match=message):
            tree_spec(network(root, file_size=checkpoint.size), checkpoint.read, name='changed')
