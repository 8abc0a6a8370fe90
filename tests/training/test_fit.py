"""The loop on a small network: it learns, compiles once, reports trouble and continues exactly where it was killed."""

import functools
import importlib.util
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
from rich.console import Console

from jaxprune.errors import UserError
from jaxprune.training import TrainState, fit, make_step

HERE = pathlib.Path(__file__).parent
_spec = importlib.util.spec_from_file_location('toy', HERE / 'toy.py')
toy = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toy)


@functools.cache
def compiled(epochs):
    return make_step(toy.objective(), toy.schedule(epochs))


def run(directory=None, *, epochs=3, objective=None, settings=None, **options):
    plan = toy.schedule(epochs)
    step = make_step(objective, plan) if objective else compiled(epochs)
    state = TrainState.create(toy.variables(), plan)
    return fit(state, step, toy.batches, plan, directory=directory, settings=settings or {'seed': 0}, **options)


def test_loss_falls_and_history_has_every_metric():
    result = run(evaluate=lambda variables: {'score': 0.5})
    assert [row['epoch'] for row in result.history] == [0, 1, 2]
    assert set(result.history[0]) == {'epoch', 'loss', 'box', 'obj', 'cls', 'rate', 'score'}
    assert result.history[-1]['loss'] < 0.9 * result.history[0]['loss']
    assert result.variables is result.state.ema


def test_batch_statistics_are_averaged_too():
    before, after = toy.variables()['batch_stats'], run().variables['batch_stats']
    moved = jax.tree.map(lambda old, new: bool((np.asarray(old) != np.asarray(new)).all()), before, after)
    assert all(jax.tree.leaves(moved))


def test_step_is_traced_once():
    count = []
    inner = toy.objective()

    def counted(variables, batch):
        count.append(1)
        return inner(variables, batch)

    run(objective=counted)
    assert len(count) == 1


def test_infinite_loss_is_a_clear_error():
    def broken(variables, batch):
        loss, rest = toy.objective()(variables, batch)
        return loss * np.float32('inf'), rest

    with pytest.raises(UserError, match=r'the loss became inf in epoch 0, step 0'):
        run(objective=broken)


def test_epoch_without_batches_is_a_clear_error():
    plan = toy.schedule(1)
    step = make_step(toy.objective(), plan)
    with pytest.raises(UserError, match='epoch 0: there are no batches'):
        fit(TrainState.create(toy.variables(), plan), step, lambda epoch: [], plan)


def test_console_gets_a_line_per_epoch(tmp_path):
    with (tmp_path / 'log').open('w') as file:
        run(console=Console(file=file, width=200))
    lines = (tmp_path / 'log').read_text().splitlines()
    assert [line.split(':')[0] for line in lines if line.startswith('epoch')] == ['epoch 1/3', 'epoch 2/3', 'epoch 3/3']


def test_finished_training_is_not_repeated(tmp_path):
    first = run(tmp_path)
    again = run(tmp_path, objective=lambda variables, batch: 1 / 0)
    jax.tree.map(np.testing.assert_array_equal, first.variables, again.variables)
    assert again.history == first.history


def test_other_settings_are_refused(tmp_path):
    run(tmp_path, settings={'seed': 0})
    with pytest.raises(UserError, match=r'begun with seed 0, not 1'):
        run(tmp_path, settings={'seed': 1})


def test_only_the_last_epoch_is_kept(tmp_path):
    run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['3']


CHILD = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import numpy as np, toy
from jaxprune import trees
from jaxprune.training import TrainState, fit, make_step

kill, seen = int(sys.argv[4]), 0
def batches(epoch):
    global seen
    for batch in toy.batches(epoch):
        if seen == kill:
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1
        yield batch

plan = toy.schedule(3)
state, step = TrainState.create(toy.variables(), plan), make_step(toy.objective(), plan)
result = fit(state, step, batches, plan, directory=sys.argv[2], settings={'seed': 0})
np.savez(sys.argv[3], **{'/'.join(path): leaf for path, leaf in trees.flatten(result.variables).items()})
"""


def child(directory, output, kill):
    script = textwrap.dedent(CHILD)
    env = {**os.environ, 'PYTHONPATH': str(HERE.parents[1])}
    return subprocess.run(
        [sys.executable, '-c', script, str(HERE), str(directory), str(output), str(kill)], env=env, check=False
    ).returncode


@pytest.mark.slow
def test_killed_training_ends_with_the_same_bits(tmp_path):
    assert child(tmp_path / 'whole', tmp_path / 'whole.npz', -1) == 0
    assert [child(tmp_path / 'cut', tmp_path / 'cut.npz', kill) for kill in (6, -1)] == [-signal.SIGKILL, 0]
    whole, cut = np.load(tmp_path / 'whole.npz'), np.load(tmp_path / 'cut.npz')
    assert set(whole) == set(cut)
    for name in whole:
        np.testing.assert_array_equal(whole[name], cut[name], err_msg=name)
