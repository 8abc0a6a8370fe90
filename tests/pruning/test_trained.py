"""The published first iteration on a trained checkpoint: what the original keeps and what it then computes."""

import numpy as np
import pytest

import weights_convert
from jaxprune import models
from jaxprune.pruning import mask, plan_rates, published_iterations, rates_from_json, slice_variables, widths


@pytest.fixture(scope='module')
def trained(golden):
    file = golden / 'trained/yolov7-tiny-bccd.pt'
    if not file.is_file():
        pytest.skip('the trained checkpoint (12 MB) is not beside this checkout')
    return weights_convert.convert_checkpoint(file)


@pytest.fixture(scope='module')
def pruned(golden):
    with np.load(golden / 'trained/pruned.npz') as arrays:
        return dict(arrays)


@pytest.mark.parametrize('criterion', ['l2', 'l1'])
def test_first_published_iteration(trained, pruned, criterion):
    spec, variables = trained.spec, trained.variables
    graph = models.connectivity(spec)
    rates = rates_from_json(published_iterations('yolov7-tiny')[0]['layers'])
    plan = plan_rates(graph, variables, rates, criterion=criterion)
    prefix = f'kept_{criterion}_iteration1_layer'
    expected = {
        int(key.removeprefix(prefix)): value.tolist() for key, value in pruned.items() if key.startswith(prefix)
    }
    assert {layer.index: list(layer.keep) for layer in plan.layers} == expected

    smaller = models.Detector(spec.resize(widths(plan)))
    sliced = slice_variables(variables, plan)
    assert models.count(smaller, sliced, 256).parameters_published == pruned[f'parameters_{criterion}']
    images = np.moveaxis(pruned['image'], 1, -1)
    decoded = pruned[f'decoded_{criterion}']
    for model, weights in ((smaller, sliced), (models.Detector(spec), mask(variables, plan))):
        computed = np.asarray(models.predict(model, weights, images))
        assert np.abs(computed - decoded)[..., :4].max() <= 2e-5 * decoded[..., :4].max()
        assert np.abs(computed - decoded)[..., 4:].max() <= 2e-5
