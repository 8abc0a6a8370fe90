"""Tensors without modules: the architecture is found by their names."""

import dataclasses
import pathlib
import re
import zipfile

import numpy as np
import pytest

from jaxprune import models
from weights_convert import ConversionError, convert_checkpoint, write_state_dict
from weights_convert._entries import find
from weights_convert._modules import network
from weights_convert._state_dict import network_names, state_dict_spec
from weights_convert._storage import open_checkpoint
from weights_convert._tensors import tensor
from weights_convert._tree import tree_spec, tree_tensors

SMALL = pathlib.Path(__file__).parents[1] / 'golden' / 'convert'  # made by make_golden_blocks.py
ARCHITECTURES = ('yolov7', 'yolov7x', 'yolov7-tiny', 'yolov7-w6', 'yolov7-e6', 'yolov7-d6', 'yolov7-e6e')
FAMILY = (*(f'{form}-{name}' for name in ARCHITECTURES for form in ('training', 'deploy')), 'deploy-yolov7-tiny-silu')


@pytest.mark.parametrize(
    ('file', 'form', 'dtype'),
    [
        ('state_bare', 'training', 'float32'),  # legacy format
        ('state_nested', 'training', 'float16'),  # DataParallel of a compiled model, tensors in one storage
        ('state_fused', 'fused', 'float32'),  # the implicit vectors are still there, and folded already
    ],
)
def test_computes_what_pytorch_computes(file, form, dtype):
    converted = convert_checkpoint(SMALL / f'{file}.pt', name='yolov7-tiny')
    expected = np.load(SMALL / 'blocks.npz')
    heads = models.heads(models.Detector(converted.spec), converted.variables, expected['image'].transpose(0, 2, 3, 1))
    assert (converted.spec.name, converted.spec.form, converted.spec.classes) == ('yolov7-tiny', form, ('0', '1'))
    assert converted.spec.anchors[1] == ((5.0, 5.0), (7.0, 10.0), (30.0, 21.0))
    assert {row.dtype for row in converted.report} >= {dtype}
    assert 'params/model_0/conv/kernel' in {row.destination for row in converted.report}
    for level, head in enumerate(heads):
        reference = expected[f'{file}{level}']
        assert np.abs(np.asarray(head) - reference).max() < 1e-6 * np.abs(reference).max()


def test_name_is_needed_where_several_architectures_have_the_same_tensors():
    with pytest.raises(ConversionError, match=r'fit yolov7-tiny, yolov7-tiny-silu; choose one of them with --name'):
        convert_checkpoint(SMALL / 'state_bare.pt')
    with pytest.raises(ConversionError, match=r'nearest is yolov7 .*missing.*unexpected'):
        convert_checkpoint(SMALL / 'state_bare.pt', name='yolov7')
    spec = convert_checkpoint(SMALL / 'state_bare.pt', name='yolov7-tiny-silu').spec
    assert {node.activation for node in spec.nodes if node.op == 'conv'} == {'silu'}


@pytest.fixture(scope='module')
def opened(golden):
    """Tensors by name, how to read them, and the spec from the module tree."""
    found = {}

    def get(file):
        path = golden / 'family' / f'{file}.pt'
        if not path.exists():
            pytest.skip(f'{file} is not beside this checkout')
        if file not in found:
            with open_checkpoint(path) as checkpoint:
                root = network(find(checkpoint.value), file_size=checkpoint.size)
                tensors = tree_tensors(root)
                grid = next(name for name in tensors if name.endswith('anchor_grid'))
                anchors = checkpoint.read(tensors[grid])
                found[file] = tensors, lambda _: anchors, tree_spec(root, checkpoint.read, name=file)
        return found[file]

    return get


@pytest.mark.parametrize('file', FAMILY)
def test_family_is_recognised(opened, file):
    tensors, read, expected = opened(file)
    architecture = file.partition('-')[2]
    name = architecture if 'tiny' in architecture else None
    without_counters = {key: ref for key, ref in tensors.items() if not key.endswith('num_batches_tracked')}
    for given in (tensors, without_counters):
        spec = state_dict_spec(given, read, name=name)
        assert spec.name == architecture
        assert dataclasses.replace(spec, name=expected.name, classes=expected.classes) == expected


@pytest.mark.parametrize('file', ['training-yolov7', 'training-yolov7-w6'])
def test_fused_by_the_original(opened, file):
    """Its `fuse` drops BN and branches, and leaves implicit vectors, auxiliary heads and what those read."""
    tensors, read, expected = opened(file)
    fused = {}
    for name, ref in tensors.items():
        if match := re.fullmatch(r'(.*)\.rbr_dense\.0\.weight', name):
            fused[f'{match[1]}.rbr_reparam.weight'] = ref
            fused[f'{match[1]}.rbr_reparam.bias'] = tensors[f'{match[1]}.rbr_dense.1.bias']
        elif match := re.fullmatch(r'(.*)\.bn\.bias', name):
            fused[f'{match[1]}.conv.bias'] = ref
        elif '.bn.' not in name and '.rbr_' not in name:
            fused[name] = ref
    spec = state_dict_spec(fused, read, name=None)
    assert spec.form == 'fused'
    assert spec.nodes == models.with_form(expected, 'fused').nodes


def test_anchors_of_the_registry_where_the_file_has_none(opened):
    tensors, read, _ = opened('training-yolov7-w6')
    kept = {name: ref for name, ref in tensors.items() if 'anchor' not in name}
    assert state_dict_spec(kept, read, name=None).anchors == models.build_spec('yolov7-w6').anchors


def test_both_sides_of_a_difference(opened):
    tensors, read, _ = opened('training-yolov7-w6')
    changed = {f'{name}_' if name == 'model.2.bn.bias' else name: ref for name, ref in tensors.items()}
    with pytest.raises(ConversionError) as caught:
        state_dict_spec(changed, read, name=None)
    assert 'nearest is yolov7-w6 (training): 1 missing (model.2.bn.bias), 1 unexpected (model.2.bn.bias_); ' in str(
        caught.value
    )


@pytest.mark.parametrize(
    ('name', 'shape', 'expected'),
    [
        ('model.122.m.1.weight', (26, 64, 1, 1), r'\[26, 27\] rows, which do not fit 3 anchors'),
        ('model.1.conv.weight', (8, 3), r"'model.1.conv.weight' has shape \(8, 3\), expected 4 axes"),
        ('model.1.conv.weight', (0, 3, 3, 3), 'none of them empty'),
        ('model.122.anchor_grid', (4, 2), 'expected 6 axes'),
    ],
)
def test_shapes_that_make_no_sense(opened, name, shape, expected):
    tensors, read, _ = opened('training-yolov7-w6')
    changed = {**tensors, name: dataclasses.replace(tensors[name], shape=shape)}
    with pytest.raises(ConversionError, match=expected):
        state_dict_spec(changed, read, name=None)


@pytest.mark.parametrize(
    'prefix',
    ['', 'module.', 'model.', '_orig_mod.', 'module.model.', '_orig_mod.module.', 'ema.module.', 'net.detector.'],
)
def test_prefixes(opened, prefix):
    tensors, _, _ = opened('training-yolov7-w6')
    named = network_names({f'{prefix}{name}': ref for name, ref in tensors.items()})
    assert named == tensors
    layers = {f'{prefix}{name.removeprefix("model.")}': ref for name, ref in tensors.items()}  # of the module list
    assert network_names(layers) == tensors
    inside = {f'model._orig_mod.{name.removeprefix("model.")}': ref for name, ref in tensors.items()}
    assert network_names(inside) == tensors


def test_tensors_beside_the_network_are_left_out(opened):
    tensors, read, _ = opened('training-yolov7-w6')
    beside = {f'net.{name}': ref for name, ref in tensors.items()} | {'loss.weight': tensors['model.2.bn.bias']}
    assert network_names(beside) == tensors
    foreign = {f'layer1.{name.removeprefix("model.")}': ref for name, ref in tensors.items() if '.bn.' not in name}
    foreign |= {f'stem.{index}x.weight': tensors['model.2.bn.bias'] for index in range(1000)}
    with pytest.raises(ConversionError, match=r'unexpected .layer1\.1\.conv\.weight'):
        state_dict_spec(network_names(foreign), read, name=None)


def test_quantised_tensors_are_refused(tmp_path):
    converted = convert_checkpoint(SMALL / 'state_bare.pt', name='yolov7-tiny')
    write_state_dict(converted.spec, converted.variables, tmp_path / 'float.pt')
    with zipfile.ZipFile(tmp_path / 'float.pt') as archive, zipfile.ZipFile(tmp_path / 'int.pt', 'w') as out:
        for name in archive.namelist():
            out.writestr(name, archive.read(name).replace(b'FloatStorage', b'IntStorage'))
    with pytest.raises(ConversionError, match=r"'model.0.conv.weight' is of type int32; quantised"):
        convert_checkpoint(tmp_path / 'int.pt', name='yolov7-tiny')


def test_two_networks_in_one_state_dict(opened):
    tensors, _, _ = opened('training-yolov7-w6')
    with pytest.raises(ConversionError, match='two networks'):
        network_names(tensors | {f'module.{name}': ref for name, ref in tensors.items()})


def test_storage_that_is_a_view_of_another():
    """As PyTorch 0.3 wrote them, and PyTorch 2 reads them: the fourth to sixth of eight numbers."""
    with open_checkpoint(SMALL / 'view.pt') as checkpoint:
        ref = tensor(checkpoint.value['w'])
        np.testing.assert_array_equal(checkpoint.read(ref), [3.0, 4.0, 5.0])


def test_compiled_programs_are_named():
    with pytest.raises(ConversionError, match=r'a TorchScript archive .*torch.save'):
        convert_checkpoint(SMALL / 'script.pt')
