"""The report of a run: one HTML file that needs nothing else, neither network nor scripts."""

import base64
import os
import pathlib
from typing import Any

from jaxprune.errors import UserError
from jaxprune.files import write_text
from jaxprune.report import _plots, _sensitivity
from jaxprune.report._summary import IterationSummary, RunSummary

_SIGNATURES = {b'\x89PNG': 'image/png', b'\xff\xd8\xff': 'image/jpeg'}


def write_report(run: RunSummary, path: str | os.PathLike[str]) -> pathlib.Path:
    """Writes `run` as a self-contained HTML page.

    Args:
      run: what to tell; iterations, scans and pictures may be missing.
      path: of the file; it appears whole or not at all.

    Returns:
      The path.

    Raises:
      UserError: the file cannot be written, or a picture is missing or neither PNG nor JPEG.
    """
    return write_text(path, render(run))


def render(run: RunSummary) -> str:
    """The page as text."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader('jaxprune.report'),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters['change'] = _change
    plots = {}
    if run.iterations:
        plots = {plot.__name__: plot(run) for plot in (_plots.trajectory, _plots.accuracy, _plots.cost)}
    return environment.get_template('report.html.j2').render(
        run=run,
        plots=plots,
        scans=[_scan(step) for step in run.iterations if _measured(step)],
        pictures=[(picture.caption, _data_uri(picture.before), _data_uri(picture.after)) for picture in run.pictures],
    )


def _measured(step: IterationSummary) -> bool:
    return any(row['layer'] is not None for row in step.sensitivity)


def _scan(step: IterationSummary) -> dict[str, Any]:
    measured = {(row['layer'], row['rate']): row['map50_95'] for row in step.sensitivity}
    return {
        'step': step,
        'heatmap': _sensitivity.heatmap(step),
        'curves': _sensitivity.curves(step),
        'largest_loss': _sensitivity.largest_loss(step),
        'stopped': sum('stopped' in row for row in step.sensitivity),
        'cells': sum(layer is not None for layer, _ in measured),
        'chosen': [(choice, measured.get((choice.layer, choice.rate))) for choice in step.chosen],
    }


def _change(value: float, start: float) -> str:
    """Change from `start` in %, with a real minus sign."""
    if not start:
        return '–'
    percent = 100 * (value / start - 1)
    return f'{percent:+.1f} %'.replace('-', '−')


def _data_uri(picture: bytes | pathlib.Path) -> str:
    name = 'a picture given as bytes' if isinstance(picture, bytes) else str(picture)
    try:
        content = picture if isinstance(picture, bytes) else picture.read_bytes()
    except OSError as error:
        raise UserError(f'{name}: the picture cannot be read: {error.strerror}') from error
    kind = next((kind for start, kind in _SIGNATURES.items() if content.startswith(start)), None)
    if kind is None:
        raise UserError(f'{name}: neither PNG nor JPEG')
    return f'data:{kind};base64,{base64.b64encode(content).decode("ascii")}'
