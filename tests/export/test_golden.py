"""Exported files against the outputs of PyTorch, without this project's own forward pass in between."""

import json
import pathlib

import numpy as np
import onnxruntime
import pytest

import jaxprune
from jaxprune import models
from jaxprune.export import export_onnx
from weights_convert import convert_checkpoint

SMALL = pathlib.Path(__file__).parents[1] / 'golden' / 'convert'
FAMILY = [
    f'{form}-yolov7{size}'
    for form in ('training', 'deploy')
    for size in ('', 'x', '-tiny', '-w6', '-e6', '-d6', '-e6e')
]
FAMILY += ['deploy-yolov7-tiny-silu']


def load(checkpoint):
    converted = convert_checkpoint(checkpoint)
    return models.Detector(converted.spec), converted.variables


def run(folder, model, variables, images, *, decoded):
    """Outputs of the exported model for `images` [B, 3, H, W]."""
    fused, folded = models.to_form(model, variables, 'fused')
    path = export_onnx(
        fused.spec, folded, folder / 'model.onnx', image_size=images.shape[2:], batch=len(images), decoded=decoded
    )
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    return session.run(None, {'images': images})


def assert_close(actual, expected, tolerance):
    """Within `tolerance` of the largest value."""
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def assert_decoded(actual, expected):
    """Boxes against the largest of them, probabilities against 1."""
    assert_close(actual[..., :4], expected[..., :4], 2e-5)
    np.testing.assert_allclose(actual[..., 4:], expected[..., 4:], rtol=0, atol=2e-5)


@pytest.mark.parametrize('name', ['zip', 'legacy', 'views', 'fused'])
def test_small_networks_of_every_module(tmp_path, name):
    reference = np.load(SMALL / 'outputs.npz')
    heads = run(tmp_path, *load(SMALL / f'{name}.pt'), reference['image'], decoded=False)
    for level, head in enumerate(heads):
        raw = reference[f'{name}{level}']  # [B, h, w, anchors, values]
        assert_close(head, raw.reshape(*raw.shape[:3], -1).transpose(0, 3, 1, 2), 2e-5)


@pytest.mark.parametrize('name', FAMILY)
def test_family_raw_and_decoded(tmp_path, find, name):
    reference = np.load(find(f'family/{name}.npz'))
    model, variables = load(find(f'family/{name}.pt'))
    heads = run(tmp_path, model, variables, reference['image'], decoded=False)
    for level, head in enumerate(heads):
        raw = reference[f'raw{level}'].transpose(0, 1, 4, 2, 3)  # [B, anchors, values, h, w]
        assert_close(head, raw.reshape(head.shape), 2e-5)
    (decoded,) = run(tmp_path, model, variables, reference['image'], decoded=True)
    assert_decoded(decoded, reference['decoded'])


def test_pruned_model_equals_the_original_pruned_model(tmp_path, find):
    reference = np.load(find('trained/pruned.npz'))
    first = json.loads(find('pruning/yolov7-tiny.json').read_text())['iterations'][0]
    rates = {row['layer']: row['rate'] for row in first['layers']}
    pruned = jaxprune.prune(*load(find('trained/yolov7-tiny-bccd.pt')), rates, criterion='l2')
    (decoded,) = run(tmp_path, *pruned, reference['image'], decoded=True)
    assert_decoded(decoded, reference['decoded_l2'])
