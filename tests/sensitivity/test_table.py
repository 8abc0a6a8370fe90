"""The table of a scan: rows that a kill cut off, tables of other runs, and files that are none."""

import json
import pathlib

import pytest

from jaxprune.errors import UserError
from jaxprune.sensitivity import Share, Table, read_rows


def written(path, rows):
    table = Table(path, 'settings')
    for row in rows:
        table.append(row)
    table.close()


ROWS = [{'layer': None, 'rate': 0, 'map50_95': 0.5}, {'layer': 3, 'rate': 0.25, 'map50_95': 0.4}]


@pytest.mark.parametrize('length', [1, 5, 20, -2])
def test_a_row_that_was_cut_off_is_measured_again(tmp_path, length):
    path = tmp_path / 'new' / 'scan.jsonl'
    written(path, ROWS)
    whole = path.read_text()
    start = whole.index('\n') + 1
    path.write_text(whole[: start + length] if length > 0 else whole[:length])
    table = Table(path, 'settings')
    assert (None, 0) in table and (3, 0.25) not in table
    table.append(ROWS[1])
    table.close()
    assert path.read_text() == whole
    assert read_rows(path) == ROWS


def test_shards_that_a_single_process_goes_on_with(tmp_path):
    path = tmp_path / 'scan.jsonl'
    half = Table(path, 'settings', share=Share(1, 2))
    half.append(ROWS[1])
    half.close()
    alone = Table(path, 'settings')
    assert (3, 0.25) in alone and (None, 0) not in alone
    alone.append(ROWS[0])
    assert alone.join([(None, 0), (3, 0.25)])
    alone.close()
    assert read_rows(path) == ROWS
    assert list(tmp_path.iterdir()) == [path]


def test_an_editor_that_drops_the_last_line_break_drops_no_row(tmp_path):
    path = tmp_path / 'scan.jsonl'
    written(path, ROWS[:1])
    path.write_text(path.read_text().removesuffix('\n'))
    written(path, ROWS[1:])
    assert read_rows(path) == ROWS


@pytest.mark.parametrize('share', [Share(), Share(1, 2)])
def test_one_process_at_a_time_adds_to_a_file(tmp_path, share):
    path = tmp_path / 'scan.jsonl'
    first = Table(path, 'settings', share=share)
    first.append(ROWS[0])
    with pytest.raises(UserError, match=r'scan\.jsonl.*: another process is measuring it'):
        Table(path, 'settings', share=share)
    other = Table(path, 'settings', share=Share(0, 2))
    assert (None, 0) in other
    other.close()
    first.close()
    Table(path, 'settings', share=share).close()


def test_rows_of_other_settings_are_refused(tmp_path):
    written(tmp_path / 'scan.jsonl', ROWS)
    with pytest.raises(UserError, match='another model, data set or options'):
        Table(tmp_path / 'scan.jsonl', 'others')


@pytest.mark.parametrize(
    'text',
    [
        'x',  # one line without an end is not a row that was cut off
        'notes\n',
        '{"layer": [3], "rate": 0.5}\n',
        '{"layer": 3, "rate": null}\n',
        '{"layer": 3}\n',
        '[]\n',
        '[' * 10**5 + '\n',
    ],
)
def test_files_that_are_no_tables_are_left_alone(tmp_path, text):
    path = tmp_path / 'notes.txt'
    path.write_text(text)
    for use in (lambda: Table(path, 'settings'), lambda: read_rows(path)):
        with pytest.raises(UserError, match=r'notes\.txt, line 1'):
            use()
    assert path.read_text() == text


@pytest.mark.parametrize('path', ['.', '/dev/zero'])
def test_places_that_are_no_files(path):
    with pytest.raises(UserError, match='is not a file'):
        Table(path, 'settings')


def test_a_full_disk_is_reported_once(tmp_path):
    table = Table(tmp_path / 'scan.jsonl', 'settings')
    table._file.close()
    table._file = pathlib.Path('/dev/full').open('w')  # noqa: SIM115
    with pytest.raises(UserError, match='No space left'):
        table.append(ROWS[0])
    table.close()
    assert json.dumps(read_rows(tmp_path / 'scan.jsonl')) == '[]'
