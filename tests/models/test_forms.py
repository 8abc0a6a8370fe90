"""Forms and activations of pruned models; of whole ones, see the converted checkpoints."""

import jax
import numpy as np
import pytest

import jaxprune
from jaxprune import models
from jaxprune.errors import UserError


@pytest.mark.parametrize('name', ['yolov7', 'yolov7-tiny', 'yolov7-w6'])
def test_forms_of_a_pruned_model_compute_the_same(random_model, name):
    spec, variables = random_model(name)
    model, variables = jaxprune.prune(models.Detector(spec), variables, {3: 0.5, 20: 0.25, 40: 0.75})
    images = np.random.default_rng(0).uniform(size=(1, 64, 128, 3)).astype(np.float32)
    expected = models.heads(model, variables, images)
    deploy = models.to_form(model, variables, 'deploy')
    fused = models.to_form(*deploy, 'fused')
    for head, wanted in zip(models.heads(*fused, images), expected, strict=True):
        assert np.abs(head - wanted).max() <= 1e-5 * np.abs(wanted).max()
    assert fused[0].spec == models.with_form(model.spec, 'fused')
    direct = models.to_form(model, variables, 'fused')[1]
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6), fused[1], direct)
    assert models.count(*fused).parameters == models.spec_cost(fused[0].spec).parameters


def test_forms_go_one_way(random_model):
    spec, _ = random_model('yolov7-tiny', 'fused')
    assert models.with_form(spec, 'fused') is spec
    with pytest.raises(ValueError, match='cannot be turned back'):
        models.with_form(spec, 'deploy')


def test_auxiliary_heads_come_last(random_model):
    spec, variables = random_model('yolov7-w6')
    model, images = models.Detector(spec), np.full((1, 64, 64, 3), 0.5, np.float32)
    lead, both = (models.heads(model, variables, images, auxiliary=auxiliary) for auxiliary in (False, True))
    assert [head.shape for head in both] == [head.shape for head in lead] * 2
    for head, other in zip(lead, both, strict=False):
        np.testing.assert_allclose(head, other, rtol=1e-5, atol=1e-5)


def test_resize_changes_the_spec_too(random_model):
    spec, variables = random_model('yolov7', 'training', seed=2)
    model = models.Detector(spec)
    small, sliced = jaxprune.prune(model, variables, {1: 0.5, 40: 0.25, 30: 0.5})
    assert jaxprune.resize(model, sliced).spec == small.spec
    with pytest.raises(UserError, match='variables are not those of a yolov7'):
        jaxprune.resize(model, {'params': {}})
