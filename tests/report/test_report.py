"""The report as a reader gets it: parsed again from the page."""

import base64
import html.parser
import json
import re
import xml.etree.ElementTree as ET

import cv2
import numpy as np
import pytest

from jaxprune.errors import UserError
from jaxprune.report import ChosenLayer, IterationSummary, Metrics, Picture, RunSummary, write_report

VOID = {'meta', 'img', 'br', 'link'}


class Page(html.parser.HTMLParser):
    """Rows of the tables, ids and attributes of a page; counts tags that are never closed."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.tags, self.open, self.cell = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == 'tr':
            self.rows.append([])
        if tag in ('td', 'th'):
            self.cell = ''

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in ('td', 'th'):
            self.rows[-1].append(self.cell.strip())
            self.cell = None


def picture(shade, extension='.png'):
    return cv2.imencode(extension, np.full((4, 6, 3), shade, np.uint8))[1].tobytes()


@pytest.fixture(scope='module')
def published(golden):
    """The published run of yolov7-tiny, with a real scan in every iteration."""
    plain = json.loads((golden / 'pruning' / 'yolov7-tiny.json').read_text())
    scan = json.loads((golden / 'trained' / 'sensitivity.json').read_text())
    rows = ({'layer': None, 'rate': 0, **scan['baseline']}, *scan['cells'])
    names = tuple(plain['conv_names_in_pytorch'])
    iterations = [
        IterationSummary(
            index=row['iteration'],
            map50_95_before_finetuning=before,
            map50_95_after=after,
            parameters=cost['parameters'],
            gflops=cost['gflops_640'],
            chosen=tuple(ChosenLayer(name=names[choice['layer']], **choice) for choice in row['layers']),
            sensitivity=rows,
            layer_names=names,
        )
        for row, before, after, cost in zip(
            plain['iterations'],
            plain['published_map_before_finetuning'],
            plain['published_map_after_finetuning'][1:],
            plain['published'][1:],
            strict=True,
        )
    ]
    start = plain['published'][0]
    return RunSummary(
        title='yolov7-tiny <on> COCO & more',
        baseline=Metrics(map50_95=0.375, map50=0.56, parameters=start['parameters'], gflops=start['gflops_640']),
        settings={'rates': '<0.25 & up>'},
        iterations=tuple(iterations[:3]),
        pictures=(Picture(caption='"a"', before=picture(0), after=picture(255, '.jpg')),),
    )


@pytest.fixture(scope='module')
def text(published, tmp_path_factory):
    return write_report(published, tmp_path_factory.mktemp('report') / 'report.html').read_text(encoding='utf-8')


def test_table_has_the_published_figures(text):
    rows = Page(text).rows
    assert rows[2] == ['start', '–', '0.375', '–', '0.560', '6,219,709', '–', '13.702', '–', '–']
    assert rows[3] == ['1', '0.257', '0.360', '–', '–', '4,927,229', '−20.8 %', '11.063', '−19.3 %', '5']
    assert rows[5] == ['3', '0.144', '0.337', '–', '–', '3,461,957', '−44.3 %', '8.724', '−36.3 %', '6']


def test_chosen_layers_have_the_scan_value_of_their_cell(text):
    rows = Page(text).rows
    assert ['52', 'model.74', '75 %', '0.506', 'FLOPs'] in rows
    assert ['19', 'model.25', '25 %', '0.566', 'parameters'] in rows


def test_needs_nothing_else_and_runs_nothing(text):
    tags = Page(text).tags
    assert not {'script', 'link', 'iframe', 'object'} & {tag for tag, _ in tags}
    links = [
        value for _, attributes in tags for key, value in attributes.items() if key in ('src', 'href', 'xlink:href')
    ]
    assert links
    assert all(link.startswith(('data:', '#')) for link in links)
    assert '@import' not in text
    assert all(link.startswith('#') for link in re.findall(r'url\(([^)]*)\)', text))


def test_text_from_the_user_is_escaped(text):
    assert '<title>yolov7-tiny &lt;on&gt; COCO &amp; more</title>' in text
    assert '&lt;0.25 &amp; up&gt;' in text


def test_ids_are_unique_and_every_reference_finds_one(text):
    tags = Page(text).tags
    ids = [attributes['id'] for _, attributes in tags if 'id' in attributes]
    assert len(ids) == len(set(ids))
    used = re.findall(r'(?:url\(|href=")#([^)"]+)', text)
    used += [attributes['aria-labelledby'] for _, attributes in tags if 'aria-labelledby' in attributes]
    assert used
    assert set(used) <= set(ids)


def test_plots_are_well_formed_and_follow_the_page_colours(text):
    plots = re.findall(r'<svg.*?</svg>', text, re.DOTALL)
    assert len(plots) == 3 + 2 * 3
    for plot in plots:
        ET.fromstring(plot)
        assert 'var(--ink)' in plot
    fixed = set(re.findall(r'(?:fill|stroke): (#[0-9a-f]{6})', ''.join(plots)))
    assert not fixed


def test_plots_mark_the_chosen_layers(text):
    curves = re.findall(r'<svg.*?</svg>', text, re.DOTALL)[4]
    bold = re.findall(r'<text style="font-weight: 700[^>]*>([^<]+)<', curves)
    assert bold == ['19 · model.25', '20 · model.26', '52 · model.74', '53 · model.75', '54 · model.76']


def test_pictures_come_back_as_they_were(text):
    sources = [attributes['src'] for tag, attributes in Page(text).tags if tag == 'img']
    assert [source.split(',')[0] for source in sources] == ['data:image/png;base64', 'data:image/jpeg;base64']
    assert base64.b64decode(sources[0].split(',')[1]) == picture(0)


def test_same_run_gives_the_same_bytes(published, text, tmp_path):
    assert write_report(published, tmp_path / 'again.html').read_text(encoding='utf-8') == text


def test_a_run_without_iterations_or_scans(published, tmp_path):
    empty = RunSummary(title='start', baseline=published.baseline)
    page = Page(write_report(empty, tmp_path / 'a.html').read_text(encoding='utf-8'))
    assert [row[0] for row in page.rows] == ['Iteration', 'as cut', 'start']
    bare = IterationSummary(index=1, map50_95_before_finetuning=0.0, map50_95_after=0.0, parameters=10, gflops=0.5)
    nothing = Metrics(map50_95=0.0, map50=0.0, parameters=10, gflops=0.5)  # a model that finds nothing, cut by nothing
    page = write_report(RunSummary(title='t', baseline=nothing, iterations=(bare,)), tmp_path / 'b.html')
    assert 'Sensitivity' not in page.read_text(encoding='utf-8')


def test_an_unfinished_scan_leaves_gaps(published, tmp_path):
    cells = ({'layer': 3, 'rate': 0.5, 'map50_95': 0.2}, {'layer': 7, 'rate': 0.25, 'map50_95': 0.3})
    step = IterationSummary(
        index=1, map50_95_before_finetuning=0.1, map50_95_after=0.2, parameters=10, gflops=0.5, sensitivity=cells
    )
    run = RunSummary(title='t', baseline=published.baseline, iterations=(step,))
    text = write_report(run, tmp_path / 'r.html').read_text(encoding='utf-8')
    assert len(re.findall('<svg', text)) == 3 + 2
    assert not re.search(r'\bnan\b', text, re.IGNORECASE)
    assert 'stopped' not in text


def test_a_race_is_said(published, tmp_path):
    cells = (
        {'layer': None, 'rate': 0, 'map50_95': 0.3},
        {'layer': 3, 'rate': 0.5, 'map50_95': 0.2, 'stopped': {'images': 16}},
        {'layer': 7, 'rate': 0.25, 'map50_95': 0.3},
    )
    step = IterationSummary(
        index=1, map50_95_before_finetuning=0.1, map50_95_after=0.2, parameters=10, gflops=0.5, sensitivity=cells
    )
    run = RunSummary(title='t', baseline=published.baseline, iterations=(step,))
    assert '1 of 2 cells were stopped by a race' in write_report(run, tmp_path / 'r.html').read_text(encoding='utf-8')


@pytest.mark.parametrize(('before', 'message'), [(b'GIF89a', 'neither PNG nor JPEG'), ('missing.png', 'missing.png')])
def test_a_bad_picture_is_named_and_nothing_is_written(published, tmp_path, before, message):
    path = before if isinstance(before, bytes) else tmp_path / before
    run = RunSummary(
        title='t', baseline=published.baseline, pictures=(Picture(caption='c', before=path, after=picture(0)),)
    )
    with pytest.raises(UserError, match=message):
        write_report(run, tmp_path / 'r.html')
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_named(published, tmp_path):
    (tmp_path / 'nowhere').write_text('a file')
    with pytest.raises(UserError, match='nowhere'):
        write_report(RunSummary(title='t', baseline=published.baseline), tmp_path / 'nowhere' / 'r.html')
