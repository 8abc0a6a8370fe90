"""What is checked in: nothing large, nothing that only works on the machine where it was written."""

import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parent.parent
LARGEST = 5_000_000  # bytes
# Of folders that belong to one machine or one person; written so that this line does not match itself.
ABSOLUTE = re.compile(rb'(?<![\w.~-])/(?:home|root|Users|work)/[\w.]|[A-Z]:[\\]+Users[\\]')


@pytest.fixture(scope='module')
def tracked() -> list[pathlib.Path]:
    if not (ROOT / '.git').exists():
        pytest.skip('not a git checkout')
    command = ['git', '-c', f'safe.directory={ROOT}', 'ls-files', '-z', '--cached', '--others', '--exclude-standard']
    names = subprocess.run(command, capture_output=True, check=True, cwd=ROOT).stdout.decode().split('\0')
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_no_large_files(tracked):
    assert len(tracked) > 50
    assert [path.name for path in tracked if path.stat().st_size > LARGEST] == []


def test_no_absolute_paths(tracked):
    found = [f'{path.relative_to(ROOT)}: {match.group()!r}' for path in tracked for match in _matches(path)]
    assert found == []


def _matches(path: pathlib.Path) -> list[re.Match[bytes]]:
    return list(ABSOLUTE.finditer(path.read_bytes()))


@pytest.mark.parametrize(
    ('text', 'wrong'),
    [
        ('open("{}me/ann/data")'.format('/ho'), True),
        ('see {}ot/.cache/x'.format('/ro'), True),
        ('{}ork/main/x.py'.format('/w'), True),
        ('C:{0}Users{0}ann'.format('\\'), True),
        ('https://host.org/{}me/page'.format('ho'), False),
        ('runs/{}rk/x'.format('wo'), False),
    ],
)
def test_the_check_itself(text, wrong):
    assert bool(ABSOLUTE.search(text.encode())) == wrong
