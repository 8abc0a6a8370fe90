"""Forward passes against the PyTorch implementation, and of the three forms against each other."""

import numpy as np
import pytest

import weights_convert
from jaxprune import models

FILES = ['training-yolov7', 'deploy-yolov7', 'training-yolov7-tiny', 'deploy-yolov7-tiny']


def _convert(file):
    converted = weights_convert.convert_checkpoint(file)
    return models.Detector(converted.spec), converted.variables


def _close(actual, expected, tolerance):
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize('name', FILES)
def test_heads_and_predictions_equal_the_original(golden, name):
    reference = np.load(golden / 'family' / f'{name}.npz')
    model, variables = _convert(golden / 'family' / f'{name}.pt')
    images = reference['image'].transpose(0, 2, 3, 1)
    for level, head in enumerate(models.heads(model, variables, images)):
        raw = reference[f'raw{level}'].transpose(0, 2, 3, 1, 4)
        _close(np.asarray(head), raw, 2e-5 * np.abs(raw).max())
    _check_decoded(np.asarray(models.predict(model, variables, images)), reference['decoded'])
    assert list(model.spec.strides) == reference['stride'].tolist()
    np.testing.assert_array_equal(np.asarray(model.spec.anchors, np.float32), reference['anchors'])


def test_trained_checkpoint_equals_the_original(golden):
    reference = np.load(golden / 'trained' / 'nms.npz')
    model, variables = _convert(golden / 'trained' / 'yolov7-tiny-bccd.pt')
    decoded = np.asarray(models.predict(model, variables, reference['image'].transpose(0, 2, 3, 1)))
    _check_decoded(decoded, reference['input'])
    assert model.spec.classes == ('RBC', 'WBC', 'Platelets')


def _check_decoded(decoded, expected):
    _close(decoded[..., :4], expected[..., :4], 2e-5 * np.abs(expected[..., :4]).max())
    _close(decoded[..., 4:], expected[..., 4:], 2e-5)


@pytest.mark.parametrize('name', FILES)
def test_forms_compute_the_same(golden, name):
    model, variables = _convert(golden / 'family' / f'{name}.pt')
    images = np.load(golden / 'family' / f'{name}.npz')['image'].transpose(0, 2, 3, 1)
    expected = models.heads(model, variables, images)
    for form in models.FORMS[models.FORMS.index(model.spec.form) + 1 :]:
        folded = models.to_form(model, variables, form)
        for head, wanted in zip(models.heads(*folded, images), expected, strict=True):
            _close(np.asarray(head), np.asarray(wanted), 1e-4 * float(np.abs(wanted).max()))
        assert models.count(*folded).parameters == models.spec_cost(folded[0].spec).parameters or form == 'deploy'
    with pytest.raises(ValueError, match='cannot be turned back'):
        models.to_form(*models.to_form(model, variables, 'fused'), 'deploy')
