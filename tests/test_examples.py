"""The examples, at small settings, and the Python in the pages about pruning any model."""

import importlib.util
import pathlib
import re
import sys
from unittest import mock

import jax
import pytest

from jaxprune.pruning import CRITERIA

ROOT = pathlib.Path(__file__).parent.parent
PAGES = ('any_model', 'criteria', 'pruning', 'selection', 'sensitivity', 'training')
# Comments that are whole lines, and a block of text right behind, are what is printed.
BLOCK = re.compile(r'^```python\n(.*?)^```', re.MULTILINE | re.DOTALL)
SHOWN = re.compile(r'\n\n```text\n(.*?)^```', re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def as_users_run_it():
    """Promotion as it is by default: optax relies on it."""
    with jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'):
        yield


def load(name, monkeypatch):
    spec = importlib.util.spec_from_file_location(name, ROOT / 'examples' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


# name: settings; the largest shares of parameters and of multiply-accumulates that may be left; accuracy: the least of
# the whole network, and how far below it the fine-tuned one may be
EXAMPLES = {
    'linen_cnn': ({'width': 16, 'strides': (2,), 'steps': 180, 'tuning_steps': 120}, (0.35, 0.35), (0.8, 0.2)),
    'nnx_residual': ({'width': 16, 'steps': 60, 'tuning_steps': 60}, (0.25, 0.4), (0.8, 0.15)),
    'plain_function': (
        {'width': 48, 'blocks': 1, 'steps': 600, 'tuning_steps': 900, 'iterations': 2},
        (0.03, 0.03),
        (0.95, 0.15),
    ),
}


@pytest.mark.parametrize('name', EXAMPLES)
def test_example(name, monkeypatch):
    settings, (parameters, macs), (accuracy, margin) = EXAMPLES[name]
    found = load(name, monkeypatch).main(**settings)
    trained, sliced, tuned = found['trained'], found['sliced'], found['tuned']
    assert sliced['parameters'] == tuned['parameters'] == sliced['planned'] <= parameters * trained['parameters']
    assert sliced['macs'] == tuned['macs'] <= macs * trained['macs']
    assert trained['accuracy'] >= accuracy
    assert tuned['accuracy'] >= trained['accuracy'] - margin
    assert tuned['accuracy'] > sliced['accuracy']


@pytest.mark.parametrize('page', PAGES)
@mock.patch.dict(CRITERIA)  # a page adds some
def test_page(page, capsys):
    text = (ROOT / 'docs' / f'{page}.md').read_text()
    names = {'__name__': page}
    for block in BLOCK.finditer(text):
        # The lines of the page, so that a traceback points there.
        code = '\n' * text.count('\n', 0, block.start(1)) + block.group(1)
        exec(compile(code, f'docs/{page}.md', 'exec'), names)
        printed = capsys.readouterr().out.splitlines()
        for line in [line[2:] for line in block.group(1).splitlines() if line.startswith('# ')]:
            assert any(fits(line, each) for each in printed), (line, printed)
        if shown := SHOWN.match(text, block.end()):
            assert printed == shown.group(1).splitlines()
    assert 'jaxprune' in names


def fits(line, printed):
    """Whether a line was printed, where `...` stands for anything."""
    return re.fullmatch('.*'.join(re.escape(part) for part in line.split('...')), printed) is not None


def test_every_criterion_is_in_the_table():
    own = {name for name, each in CRITERIA.items() if each.factors[0].__module__.startswith('jaxprune.')}
    rows = [row.split('|')[1] for row in (ROOT / 'docs' / 'criteria.md').read_text().splitlines() if row[:3] == '| `']
    assert {name for row in rows for name in re.findall('`(.*?)`', row)} == own
