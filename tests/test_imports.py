"""Imports go one way, and heavy libraries are imported where, and only when, they are needed."""

import ast
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

import jaxprune

ROOT = pathlib.Path(__file__).parent.parent
# From the bottom up. A unit imports those of the lines above its own, and itself.
LEVELS = (
    ('errors',),
    ('trees', 'resources', 'files', 'progress'),
    ('frameworks',),
    ('graph', 'detection', 'downloads'),
    ('pruning', 'models', 'replaying'),
    ('data', 'evaluation', 'checkpoint', 'weights_convert'),
    ('sensitivity', 'training', 'export'),
    ('report',),
    ('pipeline',),
    ('cli',),
)
LEVEL = {unit: level for level, units in enumerate(LEVELS) for unit in units}
EXPORTERS = {'onnx', 'onnxruntime'}
LAZY = {*EXPORTERS, 'grain', 'matplotlib', 'hotcoco', 'orbax', 'cv2'}


def _files() -> dict[str, pathlib.Path]:
    """Dotted module name -> file, `__init__` at the end where it is one."""
    paths = [path for package in ('jaxprune', 'weights_convert') for path in (ROOT / package).rglob('*.py')]
    return {'.'.join(path.relative_to(ROOT).with_suffix('').parts): path for path in sorted(paths)}


def _imported(source: str, module: str) -> Iterator[str]:
    """Dotted names of everything that a module imports, anywhere in it; names imported from a package are appended."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split('.')[: -node.level] if node.level else []
            base = '.'.join([*package, *filter(None, [node.module])])
            yield from (f'{base}.{alias.name}' for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and ast.unparse(node.func).endswith('import_module'):
            yield from (leaf.value for leaf in node.args[:1] if isinstance(leaf, ast.Constant))


def _unit(name: str) -> str | None:
    """The subpackage (or module beside them) that a dotted name is in; `jaxprune` for the facade; None for others."""
    top, *rest = name.split('.')
    if top == 'weights_convert':
        return top
    if top != 'jaxprune':
        return None
    return rest[0] if rest and rest[0] in LEVEL else top


def _wrong_arrows(source: str, module: str) -> list[str]:
    own = _unit(module)
    arrows = []
    for name in _imported(source, module):
        other = _unit(name)
        if other not in (None, own) and LEVEL.get(other, len(LEVELS)) >= LEVEL[own]:
            arrows.append(f'{module} -> {name}')
    return arrows


def test_every_unit_has_a_level():
    units = {path.name.removesuffix('.py') for path in (ROOT / 'jaxprune').iterdir() if path.name != '__pycache__'}
    units = {unit for unit in units if (ROOT / 'jaxprune' / f'{unit}.py').is_file() or _has_code(unit)}
    assert units - set(LEVEL) == {'__init__'}


def _has_code(unit: str) -> bool:
    return any((ROOT / 'jaxprune' / unit).glob('*.py'))


@pytest.mark.parametrize('module', [name for name in _files() if name != 'jaxprune.__init__'])
def test_imports_point_down(module):
    assert _wrong_arrows(_files()[module].read_text(), module) == []


@pytest.mark.parametrize(
    ('module', 'source', 'wrong'),
    [
        ('jaxprune.graph._trace', 'from jaxprune.errors import UserError', False),
        ('jaxprune.graph._trace', 'from jaxprune.graph._types import Graph', False),
        ('jaxprune.graph._trace', 'import jax.numpy as jnp', False),
        ('jaxprune.graph._trace', 'from jaxprune import models', True),  # up
        ('jaxprune.graph._trace', 'def f():\n  import jaxprune.models.spec', True),  # up, hidden in a function
        ('jaxprune.pruning._plan', 'from jaxprune.models import ArchSpec', True),  # sideways
        ('jaxprune.pruning._plan', 'from ..models import ArchSpec', True),  # the same, relative
        ('jaxprune.pruning.__init__', 'from ._plan import Plan', False),
        ('jaxprune.data.loader', 'from jaxprune import evaluation as scoring', True),  # sideways
        ('jaxprune.report._html', 'import importlib\nimportlib.import_module("jaxprune.cli")', True),
        ('jaxprune.errors', 'from jaxprune import trees', True),
        ('jaxprune.models.cost', 'import jaxprune', True),  # the facade imports everything
        ('weights_convert._names', 'from jaxprune.training import recipe', True),
    ],
)
def test_the_check_itself(module, source, wrong):
    assert bool(_wrong_arrows(source, module)) == wrong


@pytest.mark.parametrize('module', _files())
def test_exporters_are_imported_in_export_only(module):
    if not module.startswith('jaxprune.export.'):
        names = {name.split('.')[0] for name in _imported(_files()[module].read_text(), module)}
        assert not names & EXPORTERS


def _modules_after(code: str) -> set[str]:
    """Top-level modules that are loaded in a fresh interpreter after it ran `code`."""
    script = f'{code}\nimport json, sys; print(json.dumps(sorted({{name.split(".")[0] for name in sys.modules}})))'
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize('code', ['import jaxprune', 'import jaxprune.cli'])
def test_import_is_light(code):
    loaded = _modules_after(code)
    assert 'jaxprune' in loaded
    assert not loaded & (LAZY | {'jax', 'flax'})


def test_public_names_load_no_exporter():
    loaded = _modules_after('import jaxprune\nfor name in jaxprune.__all__: getattr(jaxprune, name)')
    assert {'jaxprune', 'jax'} <= loaded
    assert not loaded & (EXPORTERS | {'matplotlib', 'hotcoco'})


def test_public_names_are_not_those_of_subpackages():
    assert not set(jaxprune.__all__) & set(LEVEL)
    assert all(callable(getattr(jaxprune, name)) for name in jaxprune.__all__)
