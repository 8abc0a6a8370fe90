"""ONNX files against onnxruntime, ONNX's checker and the outputs of the PyTorch implementation."""

import json
import sys

import jax
import numpy as np
import onnx
import onnxruntime
import pytest

import jaxprune
from jaxprune import models
from jaxprune.errors import UserError
from jaxprune.export import OPSETS, build_onnx, check_onnx, export_onnx
from jaxprune.models.detector import Detector, smallest_image
from jaxprune.models.spec import IMAGE, Add, ArchSpec, Concat, Conv, Head, MaxPool, Reorg, Upsample

ACTIVATIONS = ('silu', 'leaky_relu:0.1', 'relu', 'relu6', 'hardswish', 'identity')


def conv(name, source, channels, *, kernel=1, stride=1, activation='silu', **more):
    return Conv(
        name=name, pytorch_name=name.replace('_', '.'), inputs=(source,), channels=channels, kernel=(kernel, kernel),
        stride=(stride, stride), padding=(kernel // 2, kernel // 2), activation=activation, **more,
    )  # fmt: skip


def every_operation(activation='silu'):
    """Two levels (strides 4 and 8), two classes, every operation of a fused spec."""
    nodes = (
        Reorg(name='model_r', pytorch_name='model.r', inputs=(IMAGE,)),
        conv('model_0', 'model_r', 6, kernel=3, activation=activation),
        conv('model_1', 'model_0', 8, kernel=3, stride=2, activation=activation),
        conv('model_2', 'model_1', 8, kernel=3, activation=activation, groups=4),
        MaxPool(name='model_3', pytorch_name='model.3', inputs=('model_2',), kernel=(2, 2), stride=(2, 2)),
        MaxPool(
            name='model_4', pytorch_name='model.4', inputs=('model_3',), kernel=(5, 5), stride=(1, 1), padding=(2, 2)
        ),
        Concat(name='model_5', pytorch_name='model.5', inputs=('model_4', 'model_3')),
        conv('model_6_0', 'model_5', 6, activation=activation),
        conv('model_6_1', 'model_5', 6, activation=activation),
        Add(name='model_6', pytorch_name='model.6', inputs=('model_6_0', 'model_6_1')),
        Upsample(name='model_7', pytorch_name='model.7', inputs=('model_6',), factor=2),
        Concat(name='model_8', pytorch_name='model.8', inputs=('model_7', 'model_1')),
        Head(name='model_9_m_0', pytorch_name='model.9.m.0', inputs=('model_8',), channels=14),
        Head(name='model_9_m_1', pytorch_name='model.9.m.1', inputs=('model_6',), channels=14),
    )
    anchors = (((10.0, 13.0), (16.0, 30.0)), ((33.0, 23.0), (59.0, 119.0)))
    return ArchSpec(
        name='small', form='fused', classes=('cat', 'dog'), anchors=anchors, strides=(4, 8), nodes=nodes,
        outputs=('model_9_m_0', 'model_9_m_1'),
    )  # fmt: skip


def random_variables(spec, seed=0):
    """Healthy random weights: every activation sees both signs, and values beyond 6."""
    shapes = jax.eval_shape(Detector(spec).init, jax.random.key(0), smallest_image(spec))
    generator = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: generator.normal(0, 0.6, leaf.shape).astype(np.float32), shapes)


def images(batch, height, width):
    return np.random.default_rng(1).random((batch, height, width, 3), np.float32)


@pytest.mark.parametrize('activation', ACTIVATIONS)
def test_every_operation_computes_the_model(tmp_path, activation):
    spec = every_operation(activation)
    variables = random_variables(spec)
    path = export_onnx(spec, variables, tmp_path / 'model.onnx', image_size=(16, 24), batch=2)
    parity = check_onnx(path, spec, variables, images(2, 16, 24))
    assert [output.name for output in parity.outputs] == ['head_0', 'head_1']
    assert parity.worst.relative < 2e-6
    assert min(output.largest for output in parity.outputs) > 0.1


@pytest.mark.parametrize('name', models.architectures())
def test_every_architecture_computes_the_model(tmp_path, random_model, name):
    """From a pruned training form: its auxiliary heads and folded parts do not reach the file."""
    spec, variables = random_model(name)
    model, variables = jaxprune.prune(models.Detector(spec), variables, {3: 0.5, 12: 0.25})
    model, variables = models.to_form(model, variables, 'fused')
    path = export_onnx(model.spec, variables, tmp_path / 'model.onnx', image_size=(64, 128), decoded=True)
    assert check_onnx(path, model.spec, variables, images(1, 64, 128)).worst.relative < 2e-5


@pytest.mark.parametrize('opset', OPSETS)
@pytest.mark.parametrize('decoded', [False, True])
def test_every_opset_has_the_same_outputs(tmp_path, opset, decoded):
    spec = every_operation('hardswish')
    variables = random_variables(spec)
    path = export_onnx(spec, variables, tmp_path / 'model.onnx', image_size=16, opset=opset, decoded=decoded)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [entry.version for entry in model.opset_import] == [opset]
    assert check_onnx(path, spec, variables, images(1, 16, 16)).worst.relative < 2e-6


def test_open_batch_axis(tmp_path):
    spec = every_operation()
    variables = random_variables(spec)
    path = export_onnx(spec, variables, tmp_path / 'model.onnx', image_size=(16, 24), batch=None, decoded=True)
    for batch in (1, 3):
        assert check_onnx(path, spec, variables, images(batch, 16, 24)).worst.relative < 2e-6


def test_graph_is_lean_and_says_what_it_is():
    spec = every_operation()
    model = build_onnx(spec, random_variables(spec), image_size=(16, 24))
    operations = [node.op_type for node in model.graph.node]
    assert operations.count('Conv') == len(spec.layers)
    assert set(operations) == {'Conv', 'Sigmoid', 'Mul', 'MaxPool', 'Concat', 'Resize', 'Slice', 'Add'}
    assert all(tensor.raw_data for tensor in model.graph.initializer)
    metadata = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert metadata == {
        'architecture': 'small',
        'names': ['cat', 'dog'],
        'anchors': [[[10, 13], [16, 30]], [[33, 23], [59, 119]]],
        'strides': [4, 8],
        'image_size': [16, 24],
    }


@pytest.mark.parametrize('decoded', [False, True])
def test_declared_shapes_are_the_real_ones(tmp_path, decoded):
    spec = every_operation()
    path = export_onnx(spec, random_variables(spec), tmp_path / 'm.onnx', image_size=(16, 24), decoded=decoded)
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    values = session.run(None, {'images': images(1, 16, 24).transpose(0, 3, 1, 2).copy()})
    expected = [(1, 60, 7)] if decoded else [(1, 14, 4, 6), (1, 14, 2, 3)]
    assert [value.shape for value in values] == expected
    assert [tuple(output.shape) for output in session.get_outputs()] == expected


def test_parity_sees_a_wrong_weight(tmp_path):
    spec = every_operation()
    variables = random_variables(spec)
    path = export_onnx(spec, variables, tmp_path / 'model.onnx', image_size=16)
    variables['params']['model_2']['conv']['kernel'][0, 0, 0, 0] += 0.5
    assert check_onnx(path, spec, variables, images(1, 16, 16)).worst.relative > 1e-4


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'image_size': 20}, 'stride 8'),
        ({'image_size': (16, 0)}, 'stride 8'),
        ({'image_size': 16, 'opset': 9}, 'opset 9'),
        ({'image_size': 16, 'batch': 0}, 'batch of 0'),
    ],
)
def test_what_cannot_be_exported_is_said_and_nothing_is_written(tmp_path, arguments, message):
    spec = every_operation()
    with pytest.raises(UserError, match=message):
        export_onnx(spec, random_variables(spec), tmp_path / 'model.onnx', **arguments)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / 'nowhere').write_text('a file')
    spec = every_operation()
    with pytest.raises(UserError, match='nowhere'):
        export_onnx(spec, random_variables(spec), tmp_path / 'nowhere' / 'model.onnx', image_size=16)


def test_a_file_that_is_no_model_is_named(tmp_path):
    path = tmp_path / 'text.onnx'
    path.write_text('no model')
    spec = every_operation()
    with pytest.raises(UserError, match=r'text\.onnx'):
        check_onnx(path, spec, random_variables(spec), images(1, 16, 16))


def test_a_missing_library_is_named_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnx.helper', None)
    spec = every_operation()
    with pytest.raises(UserError, match=r'pip install onnx'):
        build_onnx(spec, random_variables(spec), image_size=16)
