"""What commands print: tables for people, one JSON object for programs."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any


def _json(value: Any) -> None:
    print(json.dumps(_finite(value), default=lambda other: list(other) if isinstance(other, tuple) else vars(other)))


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, footer: str = '') -> None:
    """A table on standard output; numbers to the right."""
    from rich.console import Console
    from rich.table import Table

    drawn = Table(title=title, title_justify='left', caption=footer or None, caption_justify='left')
    for place, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[place], int | float) or row[place] is None for row in rows)
        drawn.add_column(column, justify='right' if numeric else 'left', no_wrap=numeric)
    for row in rows:
        drawn.add_row(*map(_cell, row))
    console = Console()
    if not console.is_terminal:  # in a file nothing is cut off
        console = Console(width=10_000)
    console.print(drawn)


def _cell(value: Any) -> str:
    if value is None:
        return '-'
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    if isinstance(value, int):
        return f'{value:,}'
    if isinstance(value, list) and value and all(isinstance(each, float) for each in value):
        return ' – '.join(map(_cell, value))
    return f'{value:.4g}' if isinstance(value, float) else str(value)


def model_line(result: Mapping[str, Any]) -> None:
    """One line about a model that was written."""
    print(
        f'{result["path"]}: {result["name"]}, form {result["form"]}, {len(result["classes"])} classes, '
        f'{result["layers"]} layers, {result["parameters"]:,} parameters'
    )


def converted(result: Mapping[str, Any], *, tensors: bool, as_json: bool) -> None:
    """`jaxprune convert`."""
    if as_json:
        return _json(result)
    if tensors:
        rows = [
            [tensor['name'], ' x '.join(map(str, tensor['shape'])), tensor['dtype'], tensor['destination']]
            for tensor in result['tensors']
        ]
        table('Tensors', ('in the file', 'shape', 'type', 'goes to'), rows, footer=f'{len(rows)} tensors')
    model_line(result)
    if result.get('configured') is False:
        print(
            'the configuration in it does not describe these channel counts or activations: train.py of the original '
            "would build another network, so train the module in the file itself, checkpoint['model']"
        )
    return None


def info(result: Mapping[str, Any], *, as_json: bool) -> None:
    """`jaxprune info`."""
    if as_json:
        return _json(result)
    columns = ('index', 'pytorch_name', 'in_channels', 'channels', 'parameters_published', 'gflops')
    rows = [[layer[column] for column in columns] for layer in result['layers']]
    total = (
        f'{result["parameters"]:,} parameters as stored, {result["parameters_published"]:,} as published, '
        f'{result["gflops"]:.3f} GFLOPs'
    )
    return table('Layers', ('#', 'layer', 'in', 'out', 'parameters', 'GFLOPs'), rows, footer=total)


def graph(result: Mapping[str, Any], *, as_json: bool) -> None:
    """`jaxprune graph`."""
    if as_json:
        return _json(result)
    readers: dict[int, list[str]] = {}
    for edge in result['edges']:
        readers.setdefault(edge['producer'], []).append(f'{edge["consumer"]} at {edge["offset"]}')
    rows = [
        [
            layer['index'],
            layer['pytorch_name'],
            layer['channels'],
            layer['prunable'],
            ', '.join(readers.get(layer['index'], [])),
        ]
        for layer in result['layers']
    ]
    total = f'{len(result["layers"])} layers, {len(result["edges"])} edges'
    return table('Connections', ('#', 'layer', 'channels', 'prunable', 'read by (at channel)'), rows, footer=total)


def pruned(result: Any, *, as_json: bool) -> None:
    """`jaxprune prune`."""
    if as_json:
        return _json({**vars(result), 'rows': [vars(row) for row in result.rows]})
    rows = [[row.index, row.name, row.channels, row.kept, row.removed] for row in result.rows]
    changes = [
        f'{title}: {result.before[key]:,} -> {result.after[key]:,} ({result.after[key] / result.before[key] - 1:+.1%})'
        for title, key in (('parameters', 'parameters'), ('as published', 'parameters_published'))
    ]
    flops = f'GFLOPs at 640: {result.before["gflops"]:.3f} -> {result.after["gflops"]:.3f}'
    table('Pruned layers', ('#', 'layer', 'filters', 'kept', 'removed'), rows)
    return print('\n'.join([*changes, flops, f'written: {result.path}']))


def plan(rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """`jaxprune plan show` and `jaxprune select`."""
    if as_json:
        return _json({'layers': list(rows)})
    columns = list(rows[0]) if rows else ['layer']
    return table('Plan', columns, [[row[column] for column in columns] for row in rows])


def differences(rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """`jaxprune plan diff`."""
    if as_json:
        return _json({'layers': list(rows)})
    lines = [[row['index'], row['name'], len(row['only_first']), len(row['only_second'])] for row in rows]
    columns = ('#', 'layer', 'only the first removes', 'only the second removes')
    return table('Differences', columns, lines, footer='' if rows else 'the plans are the same')


def detected(result: Mapping[str, Any]) -> None:
    """`jaxprune detect`."""
    found = ', '.join(f'{count} {name}' for name, count in result['classes'].items()) or 'nothing'
    print(f'{result["images"]} images: {found}\nwritten: {result["path"]}')


def val(result: Mapping[str, Any], *, as_json: bool) -> None:
    """`jaxprune val`."""
    if as_json:
        return _json(result)
    rows = [
        ['precision', result['precision']],
        ['recall', result['recall']],
        ['mAP50', result['map50']],
        ['mAP50-95', result['map50_95']],
        ['COCO mAP50', result['coco_map50']],
        ['COCO mAP50-95', result['coco_map50_95']],
    ]
    return table('Metrics', ('metric', 'value'), rows, footer=f'{result["images"]} images, {result["seconds"]:.1f} s')


def trained(result: Mapping[str, Any], *, as_json: bool) -> None:
    """`jaxprune train`."""
    if as_json:
        return _json(result)
    return print(
        f'{result["path"]}: mAP50 {result["map50"]:.4f}, mAP50-95 {result["map50_95"]:.4f} '
        f'after {result["epochs"]} epoch(s)'
    )


def exported(result: Mapping[str, Any], *, as_json: bool) -> None:
    """`jaxprune export`."""
    if as_json:
        return _json(result)
    errors = result['errors']
    checked = (
        'not compared (onnxruntime is not installed)'
        if errors is None
        else f'largest relative error {max(errors.values()):.1e}'
    )
    return print(f'{result["path"]}: ONNX opset {result["opset"]}, {checked}')


def iterated(result: Mapping[str, Any], *, as_json: bool) -> None:
    """`jaxprune iterate` and `jaxprune demo`."""
    if as_json:
        return _json(result)
    columns = ('iteration', 'layers', 'parameters', 'gflops', 'map50_95_before', 'map50_95')
    rows = [[row[column] for column in columns] for row in result['iterations']]
    titles = ('iteration', 'layers pruned', 'parameters', 'GFLOPs', 'mAP50-95 pruned', 'mAP50-95 tuned')
    table('Iterations', titles, rows)
    if result['stopped']:
        print(f'stopped early: {result["stopped"]}')
    return print(f'report: {result["report"]}')


def scanned(rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """`jaxprune scan`: the table is in its file."""
    if as_json:
        _json({'rows': rows})


def preview(rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """`jaxprune scan --preview`."""
    if as_json:
        return _json({'rows': rows})
    columns = list(rows[0])
    return table('Preview', columns, [[row[column] for column in columns] for row in rows])


def estimate(result: Any, *, as_json: bool, raced: bool = False) -> None:
    """`jaxprune scan --estimate`; `raced`: the scan will be a race, and the estimate is that of the whole table."""
    if as_json:
        _json(result)
        return
    device = '' if result.device_bytes is None else f', {result.device_bytes / 1e9:.1f} GB on each device'
    total = _duration(result.seconds)
    if raced:
        total = f'at most {total} (the race stops cells early)'
    print(
        f'{result.cells} cells: {total}, of it {_duration(result.compile_seconds)} to compile; '
        f'{result.host_bytes / 1e9:.1f} GB of memory{device}; a cell computes {result.computed:.0%} of the model'
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f'{seconds:.0f} s'
    minutes = round(seconds / 60)
    return f'{minutes} min' if minutes < 120 else f'{minutes // 60} h {minutes % 60:02d} min'
