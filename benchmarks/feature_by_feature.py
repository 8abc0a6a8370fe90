"""One small network per feature, half of its channels removed, by jaxprune and by Torch-Pruning.

    python benchmarks/feature_by_feature.py --torch PYTHON [--json]

PYTHON is an interpreter that has `torch` and `torch-pruning`, not necessarily JAX; without it, there is one column.
Both get the same networks with the same weights, in double precision. The number is the largest difference of outputs
between the network with masked channels and the sliced one, relative to the largest output; *same* is at most 1e-6.
Torch-Pruning has no masks: its result is compared with the whole network in which the weights are zero that read
the channels that it removed.
"""

import argparse
import importlib
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from features import networks


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    if options.only:
        print(json.dumps(importlib.import_module(f'features.in_{options.only}').results()))
        return
    columns = {'jaxprune': _column(sys.executable, 'jax')}
    if options.torch:
        columns['Torch-Pruning'] = _column(options.torch, 'torch')
        _check_that_networks_agree(columns)
    print(json.dumps(columns) if options.json else _table(columns))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--torch', metavar='PYTHON', help='interpreter with torch and torch-pruning')
    parser.add_argument('--json', action='store_true')
    parser.add_argument('--only', choices=('jax', 'torch'), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _column(python: str, framework: str) -> dict[str, dict[str, Any]]:
    command = [python, '-W', 'ignore', __file__, '--only', framework]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])


def _check_that_networks_agree(columns: dict[str, dict[str, dict[str, Any]]]) -> None:
    for name in columns['jaxprune']:
        outputs = [column[name]['output'] for column in columns.values()]
        np.testing.assert_allclose(*outputs, rtol=1e-9, atol=1e-9, err_msg=name)


def _table(columns: dict[str, dict[str, dict[str, Any]]]) -> str:
    lines = [['', *columns], ['---'] * (len(columns) + 1)]
    for row, members in networks.ROWS.items():
        cells = [[_word(column[member.__name__]['result']) for member in members] for column in columns.values()]
        lines.append([row, *('; '.join(words if len(set(words)) > 1 else words[:1]) for words in cells)])
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _word(result: float | str) -> str:
    if isinstance(result, str):
        return result
    return 'same' if result <= 1e-6 else f'{result:.2g}'


if __name__ == '__main__':
    main()
