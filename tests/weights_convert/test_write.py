"""What is written is what PyTorch would have written, and comes back as it was."""

import collections
import dataclasses
import importlib.util
import pathlib
import pickle
import random
import resource
import zipfile

import numpy as np
import pytest

from jaxprune import models, pruning, trees
from jaxprune.errors import UserError
from weights_convert import ConversionError, convert_checkpoint, write_checkpoint, write_state_dict

SMALL = pathlib.Path(__file__).parents[1] / 'golden' / 'convert'  # made by make_golden.py
FAMILY = [f'{form}-yolov7{size}' for form in ('training', 'deploy') for size in ('', 'x', '-tiny', '-w6', '-e6', '-d6')]
FAMILY += ['training-yolov7-e6e', 'deploy-yolov7-e6e', 'deploy-yolov7-tiny-silu']
_spec = importlib.util.spec_from_file_location('_torch_files', pathlib.Path(__file__).parent / '_torch_files.py')
torch_files = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(torch_files)


@pytest.fixture(scope='module')
def small():
    """The small checkpoint that uses every kind of module, converted."""
    return convert_checkpoint(SMALL / 'zip.pt')


def _assert_equal(actual, expected):
    actual, expected = trees.flatten(actual), trees.flatten(expected)
    assert actual.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_array_equal(actual[path], leaf, err_msg='/'.join(path))


def _pruned(converted, rate, **options):
    graph = models.connectivity(converted.spec)
    plan = pruning.plan_rates(graph, converted.variables, pruning.uniform_rates(graph, rate), criterion='l2', **options)
    spec = converted.spec.resize(pruning.widths(plan))
    assert spec != converted.spec
    return spec, pruning.slice_variables(converted.variables, plan)


@pytest.mark.parametrize('file', FAMILY)
def test_family_comes_back_bit_for_bit(find, tmp_path, file):
    """The originals are float16, so float16 is exact too."""
    path = find(f'family/{file}.pt')
    first = convert_checkpoint(path)
    assert write_checkpoint(first.spec, first.variables, tmp_path / 'c.pt', like=path)
    again = convert_checkpoint(tmp_path / 'c.pt', name=first.spec.name)
    assert again.spec == first.spec
    _assert_equal(again.variables, first.variables)
    write_state_dict(first.spec, first.variables, tmp_path / 's.pt', dtype='float16')
    again = convert_checkpoint(tmp_path / 's.pt', name=file.partition('-')[2])
    assert again.spec.nodes == first.spec.nodes
    _assert_equal(again.variables, first.variables)


@pytest.mark.parametrize('file', ['training-yolov7-tiny', 'training-yolov7-w6', 'deploy-yolov7'])
def test_checkpoint_in_half_precision(find, tmp_path, file):
    path = find(f'family/{file}.pt')
    first = convert_checkpoint(path)
    write_checkpoint(first.spec, first.variables, tmp_path / 'c.pt', like=path, dtype='float16')
    again = convert_checkpoint(tmp_path / 'c.pt', name=first.spec.name)
    assert {row.dtype for row in again.report} == {'float16', 'int64'}
    _assert_equal(again.variables, first.variables)


@pytest.mark.parametrize('file', ['zip', 'legacy', 'views', 'fused'])
def test_small_checkpoints_come_back_bit_for_bit(tmp_path, file):
    first = convert_checkpoint(SMALL / f'{file}.pt')
    write_checkpoint(first.spec, first.variables, tmp_path / 'out.pt', like=SMALL / f'{file}.pt')
    again = convert_checkpoint(tmp_path / 'out.pt')
    assert again.spec == first.spec
    assert again.unexpected_calls == ()
    _assert_equal(again.variables, first.variables)


@pytest.mark.parametrize('file', ['zip', 'fused', 'views'])
def test_module_tree_is_the_one_that_pytorch_wrote(tmp_path, file):
    converted = convert_checkpoint(SMALL / f'{file}.pt')
    write_checkpoint(converted.spec, converted.variables, tmp_path / 'out.pt', like=SMALL / f'{file}.pt')
    original, written = torch_files.load(SMALL / f'{file}.pt'), torch_files.load(tmp_path / 'out.pt')
    network = original['model'] if isinstance(original, dict) else original.state['_modules']['module']
    assert torch_files.differences(network, written['model']) == []
    for _, module in torch_files.modules(written['model']):
        assert 'forward' not in module.state or module.state['forward'].__self__ is module
    assert all(tensor.array.dtype in (np.float32, np.int64) for _, tensor in torch_files.tensors(written['model']))


def test_what_a_finished_run_no_longer_has_is_left_out(tmp_path):
    for file, kept in (('zip', {'best_fitness': np.float64(0.5)}), ('fused', {}), ('views', {})):
        converted = convert_checkpoint(SMALL / f'{file}.pt')
        write_checkpoint(converted.spec, converted.variables, tmp_path / 'out.pt', like=SMALL / f'{file}.pt')
        written = torch_files.load(tmp_path / 'out.pt')
        del written['model']
        gone = dict.fromkeys(('ema', 'optimizer', 'updates', 'training_results', 'wandb_id'))
        assert written == {**kept, **gone, 'epoch': -1}


def test_state_dict_is_the_one_that_pytorch_has(tmp_path, small):
    write_state_dict(small.spec, small.variables, tmp_path / 'out.pt')
    written = torch_files.load(tmp_path / 'out.pt')
    expected = dict(torch_files.tensors(torch_files.load(SMALL / 'zip.pt')['model']))
    assert type(written) is collections.OrderedDict
    assert list(written) == list(expected)
    for name, tensor in written.items():
        assert tensor.array.dtype == expected[name].array.dtype, name
        np.testing.assert_array_equal(tensor.array, expected[name].array, err_msg=name, strict=True)


def test_archive_is_laid_out_as_pytorch_does(tmp_path, small):
    write_state_dict(small.spec, small.variables, tmp_path / 'out.pt')
    with zipfile.ZipFile(SMALL / 'zip.pt') as theirs, zipfile.ZipFile(tmp_path / 'out.pt') as ours:
        for name in ('byteorder', 'version', '.storage_alignment'):
            assert ours.read(f'archive/{name}') == theirs.read(f'zip/{name}')
        for entry in ours.infolist():
            assert entry.compress_type == zipfile.ZIP_STORED
            start = entry.header_offset + 30 + len(entry.filename) + len(entry.extra)
            assert start % 64 == 0, entry.filename


def test_pruned_modules_say_their_channels(tmp_path, small):
    spec, variables = _pruned(small, 0.4)
    described = write_checkpoint(spec, variables, tmp_path / 'out.pt', like=SMALL / 'zip.pt')
    assert not described
    again = convert_checkpoint(tmp_path / 'out.pt')
    assert again.spec == spec
    _assert_equal(again.variables, variables)
    network = torch_files.load(tmp_path / 'out.pt')['model']
    shapes = {name: tensor.array.shape for name, tensor in torch_files.tensors(network)}
    checked = set()
    for name, module in torch_files.modules(network):
        checked.add(kind := type(module).__name__)
        if kind == 'Conv2d':
            out, read, *_ = shapes[f'{name}.weight']
            stated = [module.state[key] for key in ('out_channels', 'in_channels')]
            assert stated == [out, read * module.state['groups']], name
        elif kind == 'BatchNorm2d':
            assert (module.state['num_features'],) == shapes[f'{name}.running_var']
        for kind, _, requires_grad, _ in filter(None, module.state['_parameters'].values()):
            assert (kind, requires_grad) == ('parameter', False)  # as in a finished checkpoint
    assert {'Conv2d', 'BatchNorm2d'} <= checked


def test_other_classes(tmp_path, small):
    """As after training a model on other data."""
    nodes = tuple(
        dataclasses.replace(node, channels=2 * 8) if node.name in small.spec.outputs else node
        for node in small.spec.nodes
    )
    spec = dataclasses.replace(small.spec, classes=('a', 'b', 'c'), nodes=nodes)
    variables = trees.unflatten(
        {path: np.ones(leaf.shape) for path, leaf in trees.flatten(models.shapes(spec)).items()}
    )
    write_checkpoint(spec, variables, tmp_path / 'out.pt', like=SMALL / 'zip.pt')
    network = torch_files.load(tmp_path / 'out.pt')['model']
    detect = dict(torch_files.modules(network))['model.14'].state
    assert (network.state['names'], detect['nc'], detect['no']) == (['a', 'b', 'c'], 3, 8)
    assert convert_checkpoint(tmp_path / 'out.pt').spec == spec


@pytest.mark.parametrize(
    'file', ['training-yolov7-tiny', 'deploy-yolov7-tiny', 'training-yolov7-w6', 'deploy-yolov7-d6']
)
def test_configuration_describes_widths_that_it_can_express(find, tmp_path, file):
    path = find(f'family/{file}.pt')
    converted = convert_checkpoint(path)
    spec, variables = _pruned(converted, 0.6, round_to=8)
    assert write_checkpoint(spec, variables, tmp_path / 'out.pt', like=path)
    network = torch_files.load(tmp_path / 'out.pt')['model'].state
    rows = [*network['yaml']['backbone'], *network['yaml']['head']]
    widths = spec.widths()
    assert network['yaml']['width_multiple'] == 1.0
    for index, (_, _, module, arguments) in enumerate(rows):
        if module in ('Conv', 'RepConv'):
            assert arguments[0] == widths[f'model_{index}']
        elif module == 'SPPCSPC':
            assert {widths[f'model_{index}_cv{part}'] for part in range(1, 8)} == {arguments[0]}
        elif module == 'DownC':
            assert arguments[0] == widths[f'model_{index}_join']
    spec, variables = _pruned(converted, 0.3)
    assert not write_checkpoint(spec, variables, tmp_path / 'other.pt', like=path)
    left = torch_files.load(tmp_path / 'other.pt')['model'].state['yaml']
    assert left == torch_files.load(path)['model'].state['yaml']


def _changed(spec, name, **changes):
    nodes = [dataclasses.replace(node, **changes) if node.name == name else node for node in spec.nodes]
    return dataclasses.replace(spec, nodes=tuple(nodes))


def _narrowed(file):
    """Pruned, with depthwise convolutions that have lost channels and so groups."""
    return _pruned(convert_checkpoint(SMALL / file), 0.4, min_channels=2)


def test_depthwise_convolutions_are_narrowed(tmp_path):
    spec, variables = _narrowed('blocks.pt')
    write_checkpoint(spec, variables, tmp_path / 'out.pt', like=SMALL / 'blocks.pt')
    again = convert_checkpoint(tmp_path / 'out.pt')
    assert again.spec == spec
    _assert_equal(again.variables, variables)
    modules = dict(torch_files.modules(torch_files.load(tmp_path / 'out.pt')['model']))
    depthwise = {node.pytorch_name: node.channels for node in spec.layers if getattr(node, 'groups', 1) > 1}
    assert depthwise
    for name, channels in depthwise.items():
        conv = modules[f'{name}.conv'].state
        assert (conv['groups'], conv['in_channels'], conv['out_channels']) == (channels,) * 3


def test_layers_of_dropped_heads_cannot_follow_pruning(tmp_path):
    spec, variables = _narrowed('blocks_fused.pt')
    with pytest.raises(ConversionError, match=r'layers of auxiliary heads .*prune the training form'):
        write_checkpoint(spec, variables, tmp_path / 'out.pt', like=SMALL / 'blocks_fused.pt')


@pytest.mark.parametrize(
    ('change', 'expected'),
    [
        (lambda spec: _changed(spec, 'model_0', activation='identity'), "'identity' cannot be written"),
        (lambda spec: _changed(spec, 'model_12', kernel=(3, 3), padding=(1, 1)), r'model.12 .*kernel is \(5, 5\)'),
        (lambda spec: dataclasses.replace(spec, strides=(4, 8)), 'anchors or strides'),
        (lambda spec: dataclasses.replace(spec, anchors=spec.anchors[::-1]), 'anchors or strides'),
        (lambda spec: _changed(spec, 'model_1', groups=1), 'model.1 has 2 groups, in the model 1'),
        (lambda spec: _changed(spec, 'model_2', identity=False), '4 unexpected .model.2.rbr_identity'),
    ],
)
def test_original_of_another_model(tmp_path, small, change, expected):
    spec = change(small.spec)
    variables = trees.unflatten(
        {path: np.ones(leaf.shape) for path, leaf in trees.flatten(models.shapes(spec)).items()}
    )
    with pytest.raises(ConversionError, match=expected) as caught:
        write_checkpoint(spec, variables, tmp_path / 'out.pt', like=SMALL / 'zip.pt')
    assert str(caught.value).startswith(f'{SMALL / "zip.pt"}: ')
    assert '\n' not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('activation', ['silu', 'relu', 'relu6', 'hardswish', 'leaky_relu:0.25'])
def test_activations_are_written(tmp_path, small, activation):
    spec = models.with_activation(small.spec, activation)
    described = write_checkpoint(spec, small.variables, tmp_path / 'out.pt', like=SMALL / 'zip.pt')
    assert not described
    assert convert_checkpoint(tmp_path / 'out.pt').spec == spec
    modules = dict(torch_files.modules(torch_files.load(tmp_path / 'out.pt')['model']))
    assert modules['model.0.act'].state['inplace'] is False


def test_form_of_the_original(tmp_path, small):
    with pytest.raises(
        ConversionError, match=r'in the form fused, the model in the form training.*missing .*unexpected'
    ):
        write_checkpoint(small.spec, small.variables, tmp_path / 'out.pt', like=SMALL / 'fused.pt')
    assert list(tmp_path.iterdir()) == []


def test_original_without_a_module_tree(tmp_path, small):
    write_state_dict(small.spec, small.variables, tmp_path / 'state.pt')
    with pytest.raises(ConversionError, match=r'state.pt: it holds only tensors'):
        write_checkpoint(small.spec, small.variables, tmp_path / 'out.pt', like=tmp_path / 'state.pt')
    with pytest.raises(ConversionError, match=r'missing.pt: no such file'):
        write_checkpoint(small.spec, small.variables, tmp_path / 'out.pt', like=tmp_path / 'missing.pt')
    assert [path.name for path in tmp_path.iterdir()] == ['state.pt']


def test_variables_that_cannot_be_written(tmp_path, small):
    flat = trees.flatten(small.variables)
    path, leaf = next(iter(flat.items()))
    large = trees.replace(small.variables, {path: leaf + 1e6})
    with pytest.raises(ConversionError, match=r'float16 cannot hold; write float32'):
        write_state_dict(small.spec, large, tmp_path / 'out.pt', dtype='float16')
    with pytest.raises(ConversionError, match=r'float16 cannot hold'):
        write_checkpoint(small.spec, large, tmp_path / 'out.pt', like=SMALL / 'zip.pt', dtype='float16')
    with pytest.raises(ConversionError, match=r'missing: params'):
        write_state_dict(small.spec, trees.unflatten(dict(list(flat.items())[1:])), tmp_path / 'out.pt')
    with pytest.raises(ConversionError, match="'int8' is not one of float32, float16"):
        write_state_dict(small.spec, small.variables, tmp_path / 'out.pt', dtype='int8')
    assert list(tmp_path.iterdir()) == []


def test_no_room_for_the_file(tmp_path, small):
    """What was there stays, and no temporary file is left."""
    (tmp_path / 'out.pt').write_text('before')
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r'out.pt: cannot be written'):
            write_state_dict(small.spec, small.variables, tmp_path / 'out.pt')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ['out.pt']
    assert (tmp_path / 'out.pt').read_text() == 'before'


def _with_entry(path, pickled):
    """A copy of the small checkpoint whose dictionary has one more entry, `extra`."""
    start = b'\x80\x02}q\x00('
    with zipfile.ZipFile(SMALL / 'zip.pt') as archive, zipfile.ZipFile(path, 'w') as out:
        for name in archive.namelist():
            content = archive.read(name)
            if name.endswith('data.pkl'):
                assert content.startswith(start)
                content = start + b'X\x05\x00\x00\x00extra' + pickled + content[len(start) :]
            out.writestr(name, content)
    return path


@pytest.mark.parametrize(
    'call',
    [
        b'cos\nsystem\nX\x04\x00\x00\x00true\x85R',
        # two functions that checkpoints do need, made to call another one
        b'ccopyreg\n_reconstructor\n(csubprocess\nPopen\ncsubprocess\nPopen\nX\x04\x00\x00\x00truetR',
        b'ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\nctorch\nTensor\nX\x04\x00\x00\x00true\x85}tR',
    ],
)
def test_calls_in_the_original_are_not_passed_on(tmp_path, small, call):
    like = _with_entry(tmp_path / 'like.pt', call)
    with pytest.raises(ConversionError, match='is not passed on'):
        write_checkpoint(small.spec, small.variables, tmp_path / 'out.pt', like=like)
    assert not (tmp_path / 'out.pt').exists()


def test_nested_and_shared_data_is_carried_over(tmp_path, small):
    shared = [1, -1, 70_000, 1 << 80, 0.5, 'é', b'\xff', None, True, (), (1, 2, 3, 4), {'a': {1, 2}}, frozenset('b')]
    value = {'one': shared, 'two': shared, 'self': []}
    value['self'].append(value)
    like = _with_entry(tmp_path / 'like.pt', pickle.dumps(value, 2)[2:-1])  # the model's memo starts anew
    write_checkpoint(small.spec, small.variables, tmp_path / 'out.pt', like=like)
    extra = torch_files.load(tmp_path / 'out.pt')['extra']
    assert extra['one'] == shared
    assert extra['one'] is extra['two']
    assert extra['self'][0] is extra


def test_sets_of_newer_pickles_are_carried_over(tmp_path, small):
    like = _with_entry(tmp_path / 'like.pt', b'\x8f(K\x01K\x02\x90(K\x03\x91\x86')
    write_checkpoint(small.spec, small.variables, tmp_path / 'out.pt', like=like)
    assert torch_files.load(tmp_path / 'out.pt')['extra'] == ({1, 2}, frozenset({3}))


def test_depth_has_no_limit(tmp_path, small):
    like = _with_entry(tmp_path / 'like.pt', b')' + b'\x85' * 50_000)
    write_checkpoint(small.spec, small.variables, tmp_path / 'out.pt', like=like)
    assert convert_checkpoint(tmp_path / 'out.pt').spec == small.spec


def test_object_that_is_made_from_itself(tmp_path, small):
    """A path made from a list that the path is put into afterwards; no call can do that."""
    made = b']q\x010cpathlib\nPosixPath\nh\x01\x85Rq\x02'
    like = _with_entry(tmp_path / 'like.pt', made + b'h\x01h\x02a0')
    with pytest.raises(ConversionError, match=r'made from itself'):
        write_checkpoint(small.spec, small.variables, tmp_path / 'out.pt', like=like)


def test_damaged_originals(tmp_path, small):
    """Whatever bytes of its pickle are changed: a file that can be read, or one clear error and no file."""
    with zipfile.ZipFile(SMALL / 'zip.pt') as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    generator, outcomes = random.Random(0), collections.Counter()
    for _ in range(150):
        content = bytearray(members['zip/data.pkl'])
        for _ in range(generator.choice([1, 2, 8])):
            content[generator.randrange(len(content))] = generator.randrange(256)
        with zipfile.ZipFile(tmp_path / 'like.pt', 'w') as out:
            for name, member in members.items():
                out.writestr(name, content if name == 'zip/data.pkl' else member)
        try:
            write_checkpoint(small.spec, small.variables, tmp_path / 'out.pt', like=tmp_path / 'like.pt')
            outcomes['written'] += 1
            _assert_equal(convert_checkpoint(tmp_path / 'out.pt').variables, small.variables)
            (tmp_path / 'out.pt').unlink()
        except ConversionError as error:
            outcomes['refused'] += 1
            assert '\n' not in str(error)
        assert [path.name for path in tmp_path.iterdir()] == ['like.pt']
    assert min(outcomes.values()) > 5
