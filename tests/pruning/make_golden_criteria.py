"""Importance values of Torch-Pruning (1.6.0) for one small network, for `test_criteria_torch.py`.

Run with PyTorch and Torch-Pruning installed: `python tests/pruning/make_golden_criteria.py OUTPUT.npz`. The file holds
the weights in Flax's layouts, one example, its label, and what each of Torch-Pruning's importances says of the first
layer. All weights of its kernel are positive: Torch-Pruning's geometric median measures distances between absolute
values, the paper's between filters.
"""

import sys

import numpy as np
import torch
import torch_pruning as tp
from torch import nn
from torch.nn import functional

MAGNITUDE = {'group_reduction': 'first', 'normalizer': None}
SIZE, CLASSES = 6, 3


def main(output: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, CLASSES, 3))
    model.eval()
    first, norm, second = model[0], model[1], model[3]
    with torch.no_grad():
        first.weight.abs_()
        for values in (norm.weight, norm.bias, norm.running_mean):
            values.normal_()
        norm.running_var.uniform_(0.5, 2)
    image, label = torch.randn(1, 3, SIZE, SIZE), torch.tensor([1])
    functional.cross_entropy(model(image).mean(dim=(2, 3)), label).backward()

    graph = tp.DependencyGraph().build_dependency(model, example_inputs=image)
    group = graph.get_pruning_group(first, tp.prune_conv_out_channels, idxs=list(range(8)))
    importances = {
        'l1': tp.importance.GroupMagnitudeImportance(p=1, **MAGNITUDE),
        'l2': tp.importance.GroupMagnitudeImportance(p=2, **MAGNITUDE),  # squared
        'bn': tp.importance.BNScaleImportance(group_reduction='mean', normalizer=None),
        'lamp': tp.importance.LAMPImportance(p=2, group_reduction='first'),
        'fpgm': tp.importance.FPGMImportance(p=1, **MAGNITUDE),
        'taylor': tp.importance.GroupTaylorImportance(group_reduction='gate', normalizer=None, multivariable=True),
    }
    arrays = {f'importance/{name}': importance(group) for name, importance in importances.items()}
    arrays |= {'params/norm/scale': norm.weight, 'params/norm/bias': norm.bias}
    arrays |= {'batch_stats/norm/mean': norm.running_mean, 'batch_stats/norm/var': norm.running_var}
    for name, layer in (('first', first), ('second', second)):
        arrays |= {f'params/{name}/kernel': layer.weight.permute(2, 3, 1, 0), f'params/{name}/bias': layer.bias}
    arrays |= {'image': image.permute(0, 2, 3, 1), 'label': label}
    np.savez_compressed(output, **{name: array.detach().numpy() for name, array in arrays.items()})


if __name__ == '__main__':
    main(sys.argv[1])
