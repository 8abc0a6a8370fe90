"""A short form of the fuzzing in `fuzz/run.py`: a few hundred files, the same ones each time; and its oracle."""

import pathlib
import subprocess
import sys
import warnings

import pytest
from hypothesis import HealthCheck, Phase, given, settings

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from fuzz import campaign, extremes, files, grammar, networks, oracle, rewriting
from fuzz.emit import archive

from weights_convert import ConversionError, convert_checkpoint

_SLOW = ('1000 layers of one module', '500 levels', '20000 colliding keys', '20,000 members', '20,000 pickles')
oracle.SLOW = 4.0, 100e-6  # seconds; a busy machine is no finding here


@pytest.fixture(scope='module')
def path(tmp_path_factory):
    """A file to be overwritten, after all that loads at the first use has been loaded."""
    path = tmp_path_factory.mktemp('fuzz') / 'file.pt'
    for name in networks.TREES:
        path.write_bytes(archive(networks.seed(name), {'0': networks.ONES}))
        oracle.check(path)
    return path


def _try(path, content, **options):
    path.write_bytes(content)
    outcome = oracle.check(path, **options)
    assert outcome.kind != oracle.FINDING, outcome.detail
    return outcome


@pytest.mark.parametrize('name', networks.TREES)
def test_seeds_convert(path, name):
    """Unchanged, they are what they are meant to be, and so their mutants go deep."""
    outcome = _try(path, archive(networks.seed(name), {'0': networks.ONES}))
    assert (outcome.kind == oracle.CONVERTED) == (name != 'tensors')


def test_mutants(path):
    outcomes = [_try(path, files.make(0, index)[1]) for index in range(350)]
    assert sum(outcome.kind == oracle.CONVERTED for outcome in outcomes) > 20
    assert len({outcome.text for outcome in outcomes}) > 25


@settings(
    max_examples=150, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(content=grammar.whole_files())
def test_grammar(path, content):
    _try(path, content)


def test_originals_to_write_like(path, tmp_path):
    outcomes = []
    for index in range(60):
        name, content = rewriting.make(0, index)
        rewrite = rewriting.Rewrite(tmp_path, name)
        outcomes.append(_try(path, content, convert=rewrite, writes=tmp_path / 'written'))
    assert {outcome.kind for outcome in outcomes} == {oracle.CONVERTED, oracle.REFUSED}


@pytest.mark.parametrize('name', [name for name in extremes.cases() if name not in _SLOW])
def test_extremes(path, name):
    """Files made to take as much time and memory as they can."""
    _try(path, extremes.cases()[name]())


def _opens(path):
    (path.parent / 'other').touch()
    with open(path.parent / 'other') as file:
        file.read()


def _hangs(path):
    while True:
        pass


def _warns(path):
    warnings.warn('careful', stacklevel=1)


def _long(path):
    raise ConversionError(f'{path}: {"x" * 3000}')


def _two_lines(path):
    raise ConversionError(f'{path}: one\ntwo')


def _unnamed(path):
    raise ConversionError('something')


def _imports(path):
    sys.modules.pop('this_is_not_loaded', None)
    try:
        import this_is_not_loaded  # noqa: F401
    except ImportError:
        raise ConversionError(f'{path}: no') from None


def _starts(path):
    subprocess.run([sys.executable, '-c', ''], check=True)


def _grows(path):
    bytearray(200 << 20).count(1)


def _misfits(path):
    converted = convert_checkpoint(path)
    next(iter(converted.variables['params'].values())).clear()
    return converted


@pytest.mark.parametrize(
    ('convert', 'found'),
    [
        (_opens, 'does open'),
        (_hangs, 'takes more than'),
        (_warns, 'warns: UserWarning: careful'),
        (_long, 'message is too long'),
        (_two_lines, 'message is not one printable line'),
        (_unnamed, 'message does not name the file'),
        (_imports, 'does import'),
        (_starts, 'does subprocess.Popen'),
        (_grows, 'MB for'),
        (_misfits, 'do not fit the spec'),
        (lambda path: print('hello'), 'prints'),
        (lambda path: {}['key'], 'raises KeyError'),
        (lambda path: [0] * (1 << 60), 'raises MemoryError'),
        (lambda path: sys.exit(), 'raises SystemExit'),
    ],
)
def test_the_oracle_itself(path, monkeypatch, convert, found):
    """Each of the things that must not happen is noticed."""
    monkeypatch.setattr(oracle, 'HANG', 0.2)
    path.write_bytes(archive(networks.seed('tiny'), {'0': networks.ONES}))
    outcome = oracle.check(path, convert=convert)
    assert outcome.kind == oracle.FINDING
    assert found in outcome.detail


def test_colliding_keys_collide():
    assert len({hash(key) for key in extremes.colliding(50)}) == 1


def test_a_campaign_in_worker_processes(tmp_path):
    """One worker and a few files, to the end: results are gathered and summed up."""
    summary = campaign.run(tmp_path, [campaign.Task('files', 0, 0, 30)], 1)
    assert summary['files'] == 30
    assert summary['findings'] == []
    assert '30 files' in campaign.table(summary)
