"""Whatever a file contains: a converted model or one clear error; nothing is executed."""

import collections
import io
import os
import pathlib
import pickle
import pickletools
import random
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weights_convert import ConversionError, Converted, convert_checkpoint

SMALL = pathlib.Path(__file__).parents[1] / 'golden' / 'convert'


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def _write_zip(path, content, storages=(), compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, 'w', compression) as archive:
        archive.writestr('a/data.pkl', content)
        for key, data in storages:
            archive.writestr(f'a/data/{key}', data)
    return path


def _edited(path, *replacements):
    """A copy of the small checkpoint in which texts of the pickle are replaced."""
    with zipfile.ZipFile(SMALL / 'zip.pt') as archive:
        members = {name.split('/', 1)[1]: archive.read(name) for name in archive.namelist()}
    content = members['data.pkl']
    for before, after in replacements:
        assert before in content
        content = content.replace(before, after)
    return _write_zip(path, content, [(name[5:], data) for name, data in members.items() if name.startswith('data/')])


def _message(path):
    with pytest.raises(ConversionError) as caught:
        convert_checkpoint(path)
    text = str(caught.value)
    assert text.startswith(f'{path}: ')
    assert '\n' not in text
    assert len(text) < 600
    return text


def test_keys_that_can_be_made_to_collide(tmp_path):
    """Numbers are not hashed with a secret, so of tuples only pairs of small ones are keys."""
    for key in ((1, 2, 3), (1 << 40, 1), (0.5, 1)):
        assert 'damaged' in _message(_write_zip(tmp_path / 'keys.pt', pickle.dumps({key: 1}, 2)))
    assert 'no model' in _message(_write_zip(tmp_path / 'keys.pt', pickle.dumps({(1, 'step'): 1}, 2)))


def test_class_names_can_be_shown(tmp_path):
    """Terminal escapes and newlines in them are left out; those of unknown modules are refused."""
    file = _edited(tmp_path / 'names.pt', (b'X\x03\x00\x00\x00cat', b'X\x06\x00\x00\x00\x1b[1mc\n'))
    assert convert_checkpoint(file).spec.classes == ('[1mc', 'dog')
    odd = _edited(tmp_path / 'odd.pt', (b'cmodels.common\nSPPCSPC\n', b'cmodels.common\nSP\x1bCSPC\n'))
    assert 'damaged' in _message(odd)


def test_missing_file_folder_empty_and_text(tmp_path):
    (tmp_path / 'empty.pt').touch()
    (tmp_path / 'text.pt').write_text('not a checkpoint')
    assert 'no such file' in _message(tmp_path / 'missing.pt')
    assert 'not a file' in _message(tmp_path)
    assert 'empty' in _message(tmp_path / 'empty.pt')
    assert 'not a PyTorch checkpoint' in _message(tmp_path / 'text.pt')


@pytest.mark.parametrize('file', ['zip', 'legacy', 'views', 'fused'])
@pytest.mark.parametrize('part', [0.01, 0.3, 0.6, 0.99])
def test_truncated(tmp_path, file, part):
    content = (SMALL / f'{file}.pt').read_bytes()
    (tmp_path / 'cut.pt').write_bytes(content[: int(part * len(content))])
    assert 'damaged' in _message(tmp_path / 'cut.pt')


def test_calls_are_recorded_and_not_made(tmp_path):
    victim = tmp_path / 'victim'
    hostile = Call(os.system, f'touch {victim}')
    for content in ({'model': hostile}, hostile, [hostile], {'model': Call(eval, f'open({str(victim)!r}, "w")')}):
        for protocol in range(2, 6):
            _message(_write_zip(tmp_path / 'hostile.pt', pickle.dumps(content, protocol)))
    assert not victim.exists()


def test_call_beside_a_good_model_is_reported(tmp_path):
    victim = tmp_path / 'victim'
    call = pickletools.optimize(pickle.dumps(Call(os.system, f'touch {victim}'), 2))[2:-1]
    start = b'\x80\x02}q\x00('
    path = _edited(tmp_path / 'hostile.pt', (start, start + b'X\x01\x00\x00\x00w' + call))
    assert convert_checkpoint(path).unexpected_calls == (f'{os.system.__module__}.system',)
    assert not victim.exists()


@pytest.mark.parametrize(
    ('replace', 'expected'),
    [
        (
            (b'models.common\nSPPCSPC', b'custom.blocks\nTransformer'),
            r'model.6 \(custom.blocks.Transformer\).*supported',
        ),
        (
            (b'activation\nSiLU', b'activation\nMish'),
            r'model.0.act \(torch.nn.modules.activation.Mish\).*supported are',
        ),
        ((b'batchnorm\nBatchNorm2d', b'instancenorm\nInstanceNorm2d'), r'model.0.bn .*expected a torch.nn.BatchNorm2d'),
        ((b'models.yolo\nIDetect', b'models.yolo\nIBin'), r'model.14 \(models.yolo.IBin\)'),
        ((b'X\x05\x00\x00\x00zeros', b'X\x07\x00\x00\x00reflect'), "padding_mode='reflect' is not supported"),
        ((b'X\x0b\x00\x00\x00anchor_grid', b'X\x0b\x00\x00\x00anchor_gird'), "no tensor 'anchor_grid'"),
        ((b'torch\nFloatStorage', b'torch\nQInt8Storage'), 'QInt8Storage'),
        ((b'X\x01\x00\x00\x00f', b'X\x01\x00\x00\x00g'), 'model.0 .*reads layer None'),
        ((b'X\x05\x00\x00\x00model', b'X\x05\x00\x00\x00mudel'), 'no model in it'),
        ((b'K\x06K\x06K\x01K\x01t', b'K\x06K\x03K\x01K\x01t'), r'kernel is \(1, 1, 3, 6\), expected \(1, 1, 6, 6\)'),
        ((b'X\x06\x00\x00\x00weight', b'X\x06\x00\x00\x00w/../x'), 'not a name of a module or tensor'),
        (
            (b'running_mean', b'running_maen'),
            r'missing \(model.0.bn.running_mean.*\), \d+ unexpected \(model.0.bn.running_maen, .*\)',
        ),
        ((b'common\nConcat', b'common\nShortcut'), r'model.5 adds layers of different widths \(12, 8\)'),
        ((b'models.yolo\nIDetect', b'models.yolo\nIAuxDetect'), r"model.14 .* has no submodule 'm2'"),
    ],
)
def test_error_names_what_is_not_supported(tmp_path, replace, expected):
    path = _edited(tmp_path / 'edited.pt', replace)
    with pytest.raises(ConversionError, match=expected):
        convert_checkpoint(path)


def test_pickles_that_grow_or_never_end(tmp_path):
    nested = []
    for _ in range(100):
        nested = [nested, nested]
    deep = ()
    for _ in range(100_000):
        deep = (deep,)
    module = b'\x80\x02ctorch.nn\nModule\n)\x81q\x00}X\x08\x00\x00\x00_modules}X\x01\x00\x00\x00ah\x00ssb.'
    marks = b'\x80\x02' + b'(' * 100_000 + b'.'
    deep_key = b'\x80\x02})' + b'\x85' * 100_000 + b'K\x01s.'
    contents = [pickle.dumps({'model': nested}), module, marks, deep_key, b'\x80\x02' + b')' + b'\x85' * 100_000 + b'.']
    for content in contents:
        _message(_write_zip(tmp_path / 'grow.pt', content))


def test_modules_that_multiply(tmp_path):
    """Forty modules, each of which holds the next one twice, would be 2^40."""
    content = b'\x80\x02ctorch.nn\nModule\n)\x81q\x00'
    for index in range(30):
        me, child = bytes([index + 1]), bytes([index])
        twice = b'}(X\x01\x00\x00\x00ah' + child + b'X\x01\x00\x00\x00bh' + child + b'u'
        content += b'ctorch.nn\nModule\n)\x81q' + me + b'}X\x08\x00\x00\x00_modules' + twice + b'sb'
    assert 'more modules' in _message(_write_zip(tmp_path / 'many.pt', content + b'.'))


def test_archive_that_unpacks_to_more_than_its_size(tmp_path):
    storages = [('0', bytes(50_000_000))]
    path = _write_zip(tmp_path / 'bomb.pt', pickle.dumps({}, 2), storages, zipfile.ZIP_DEFLATED)
    assert 'unpacks to more' in _message(path)


def test_compressed_archive_converts(tmp_path):
    with (
        zipfile.ZipFile(SMALL / 'zip.pt') as archive,
        zipfile.ZipFile(tmp_path / 'c.pt', 'w', zipfile.ZIP_DEFLATED) as out,
    ):
        for name in archive.namelist():
            out.writestr(name, archive.read(name))
    assert convert_checkpoint(tmp_path / 'c.pt').spec == convert_checkpoint(SMALL / 'zip.pt').spec


def test_tensors_alone_are_not_enough(tmp_path):
    window = b'ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000'
    window += b'X\x03\x00\x00\x00cpuK\x01tQK\x00K\x01\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR'
    content = b'\x80\x02}X\x05\x00\x00\x00modelccollections\nOrderedDict\n)RX\x01\x00\x00\x00w' + window + b'ss.'
    assert 'state_dict' in _message(_write_zip(tmp_path / 'state.pt', content, [('0', bytes(4))]))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), file=st.sampled_from(['zip', 'views', 'fused', 'legacy']))
def test_mutated_files(tmp_path_factory, seed, file):
    """Bytes of the pickle or of the file changed, dropped or doubled."""
    path = tmp_path_factory.mktemp('fuzz') / 'mutant.pt'
    generator = random.Random(seed)
    if file == 'legacy':
        path.write_bytes(_mutated((SMALL / 'legacy.pt').read_bytes(), generator))
    else:
        path.write_bytes(_mutated_zip(SMALL / f'{file}.pt', generator))
    try:
        assert isinstance(convert_checkpoint(path), Converted)
    except ConversionError as error:
        assert str(error).startswith(str(path))


def _mutated_zip(path, generator):
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(buffer, 'w') as out:
        for name in archive.namelist():
            content = archive.read(name)
            out.writestr(name, _mutated(content, generator) if name.endswith('data.pkl') else content)
    return _mutated(buffer.getvalue(), generator) if generator.random() < 0.2 else buffer.getvalue()


def _mutated(content, generator):
    changed = bytearray(content)
    for _ in range(generator.choice([1, 1, 2, 8])):
        start = generator.randrange(len(changed))
        length = generator.choice([1, 1, 2, 16])
        piece = collections.deque(changed[start : start + length])
        match generator.randrange(4):
            case 0:
                changed[start] = generator.randrange(256)
            case 1:
                del changed[start : start + length]
            case 2:
                changed[start:start] = bytes(piece)
            case 3:
                piece.rotate(1)
                changed[start : start + length] = bytes(piece)
    return bytes(changed)
