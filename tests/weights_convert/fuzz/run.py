"""Fuzzing of the checkpoint reader: mutated small files, each converted or refused with one clear line, and no more.

    python tests/weights_convert/fuzz/run.py --files 20000
    python tests/weights_convert/fuzz/run.py --files 100000 --guided .fuzz/bin/python --folder fuzz-results
    python tests/weights_convert/fuzz/run.py --replay fuzz-results/findings/*.pt

The files come from a seed and can be made again: changed bytes, opcodes and archives of small networks, files that
hypothesis makes, constructed worst cases and, where `--guided` names a Python that has it, those that a coverage-guided
fuzzer (atheris) finds. That Python is this one with one package more:

    python3.11 -m venv .fuzz && .fuzz/bin/pip install atheris==2.3.0 -e .

The outcome is a table, the same as JSON in the folder, and every file that is a finding. Linux only.
"""

import argparse
import json
import os
import pathlib
import sys
import tempfile
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from fuzz import guided


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--files', type=int, default=20_000, help='how many to try in all')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--workers', type=int, default=2)
    parser.add_argument('--guided', metavar='PYTHON', help='a Python with atheris, for a quarter of the files')
    parser.add_argument('--folder', type=pathlib.Path, help='for results; a new one by default')
    parser.add_argument('--replay', type=pathlib.Path, nargs='+', metavar='FILE', help='only say what becomes of these')
    parser.add_argument('--work', help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault('JAX_PLATFORMS', 'cpu')
    if options.work:
        return _work(json.loads(options.work))
    if options.replay:
        return _replay(options.replay)
    from fuzz import campaign

    os.nice(10)
    folder = (options.folder and options.folder.resolve()) or pathlib.Path(tempfile.mkdtemp(prefix='fuzz-'))
    plan = campaign.plan(options.files, options.seed, options.workers, options.guided)
    summary = campaign.run(folder, plan, options.workers)
    print(campaign.table(summary))
    print(f'results and findings are in {folder}')
    return 1 if summary['findings'] else 0


def _work(work: dict[str, Any]) -> int:
    """What a worker process does; what it tests is loaded last, as the guided fuzzer looks into it."""
    if work['source'] == 'guided':
        guided.instrument()
    from fuzz import worker

    worker.main(**work)
    return 0


def _replay(paths: list[pathlib.Path]) -> int:
    from fuzz import oracle, worker

    with tempfile.TemporaryDirectory() as folder:
        worker.Worker(pathlib.Path(folder)).warm_up()
        found = [oracle.check(path) for path in paths]
    for path, outcome in zip(paths, found, strict=True):
        figures = f'{outcome.seconds:.2f} s, {outcome.memory >> 20} MB'
        print(f'{path}: {outcome.kind}, {figures}: {outcome.detail or outcome.text}')
    return int(any(outcome.kind == oracle.FINDING for outcome in found))


if __name__ == '__main__':
    sys.exit(main())
