"""The examples, at small settings, and the Python in the pages about pruning any model."""

import importlib.util
import pathlib
import re
import sys

import jax
import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGES = ('any_model', 'criteria', 'selection', 'training')
BLOCK = re.compile(r'^```python\n(.*?)^```', re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def quick():
    """Compiled quickly rather than well."""
    jax.config.update('jax_disable_most_optimizations', True)
    yield
    jax.config.update('jax_disable_most_optimizations', False)


def load(name, monkeypatch):
    spec = importlib.util.spec_from_file_location(name, ROOT / 'examples' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


# name: settings, the largest share of parameters and of multiply-accumulates that may be left, accuracy: the least of the
# whole network, and how far below it the fine-tuned one may be
EXAMPLES = {
    'linen_cnn': ({'width': 8, 'steps': 60, 'tuning_steps': 40}, 0.35, 0.35, 0.5, 0.1),
    'nnx_residual': ({'width': 8, 'steps': 60, 'tuning_steps': 40}, 0.6, 0.4, 0.5, 0.1),
    'plain_function': ({'width': 24, 'blocks': 2, 'steps': 400, 'tuning_steps': 150, 'iterations': 2}, 0.1, 0.1, 0.8, 0.1),
}


@pytest.mark.parametrize('name', EXAMPLES)
def test_example(name, monkeypatch):
    settings, parameters, macs, accuracy, margin = EXAMPLES[name]
    found = load(name, monkeypatch).main(**settings)
    trained, sliced, tuned = found['trained'], found['sliced'], found['tuned']
    assert sliced['parameters'] == tuned['parameters'] == sliced['planned'] <= parameters * trained['parameters']
    assert sliced['macs'] == tuned['macs'] <= macs * trained['macs']
    assert trained['accuracy'] >= accuracy
    assert tuned['accuracy'] >= trained['accuracy'] - margin
    assert tuned['accuracy'] > sliced['accuracy']


@pytest.mark.parametrize('page', PAGES)
def test_page(page, capsys):
    text = (ROOT / 'docs' / f'{page}.md').read_text()
    blocks = list(BLOCK.finditer(text))
    assert blocks
    names = {'__name__': page}
    for block in blocks:
        # The lines of the page, so that a traceback points there.
        code = '\n' * text.count('\n', 0, block.start(1)) + block.group(1)
        exec(compile(code, f'docs/{page}.md', 'exec'), names)
