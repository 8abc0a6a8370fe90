"""Runs the published method's sensitivity analysis, in its own folder and with its own PyTorch.

    PYTHON scan.py FOLDER CHECKPOINT.pt DATA.yaml IMAGE_SIZE DEVICE WORK RATES

What keeps it from running with today's libraries is replaced from outside. Filters are ranked in fp32 (it ranks the
fp16 weights of a stored checkpoint), and its suppression has no time limit, so that its figures can be compared.
"""

import os
import runpy
import sys
import types

import numpy as np
import torch


def main() -> None:
    folder, checkpoint, data, image_size, device, work, rates = sys.argv[1:]
    os.chdir(folder)
    sys.path.insert(0, folder)
    for name, kind in {'int': int, 'float': float, 'bool': bool, 'object': object}.items():
        vars(np).setdefault(name, kind)
    vars(np).setdefault('trapz', np.trapezoid)
    torch.set_grad_enabled(False)
    read = torch.load
    torch.load = lambda *given, **options: read(*given, **{**options, 'weights_only': False})
    # It counts operations with a package that is not kept any more; here they are not compared.
    sys.modules.setdefault('thop', types.SimpleNamespace(profile=lambda *given, **options: (0, 0)))  # type: ignore[arg-type]
    import prune
    from utils import general

    structured = prune.prune_structured
    prune.prune_structured = lambda model, *given, **options: structured(model.float(), *given, **options)
    general.time = types.SimpleNamespace(time=lambda: 0.0)
    options = {
        'weights': checkpoint,
        'data': data,
        'img': image_size,
        'device': device,
        'project': work,
        'name': 'cells',
        'batch': 32,
        'conf': 0.001,
        'iou': 0.65,
        'task': 'pruning_sensitivity_analysis',
        'modification': 'prune-structured',
        'pruning-rate': rates,
        'prune-output': f'{work}/cells.txt',
    }
    pairs = [str(part) for key, value in options.items() for part in (f'--{key}', value)]
    sys.argv = ['test.py', '--no-trace', *pairs]
    runpy.run_path('test.py', run_name='__main__')


main()
