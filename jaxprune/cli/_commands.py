"""One function per command: its arguments, and the pipeline function that it calls; see also `_models`."""

import argparse
from typing import Any

from jaxprune.cli import _arguments as arguments
from jaxprune.cli import _models, _print


def prune(commands: Any) -> None:
    """`jaxprune prune`."""

    def run(options: argparse.Namespace) -> None:
        from jaxprune import pipeline

        result = pipeline.prune_model(
            options.model,
            options.output,
            layers=options.layers,
            rate=options.rate,
            plan=options.plan,
            criterion=options.criterion,
            seed=options.seed,
            exclude=options.exclude,
            min_channels=options.min_channels,
            round_to=options.round_to,
        )
        _print.pruned(result, as_json=options.json)

    parser = arguments.command(commands, 'prune', run, 'remove filters, and everything that read them')
    arguments.model(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument('--layers', metavar='LAYER:RATE,...', help='rates by layer index or name, as in 8:0.5,18:0.5')
    what.add_argument('--rate', type=float, help='one rate for every layer that can be pruned')
    what.add_argument('--plan', metavar='FILE', help='rates or kept filters from a JSON file')
    arguments.ranking(parser)
    arguments.seed(parser, 'of criterion random')
    arguments.least(parser)
    arguments.output(parser, 'model directory to write')
    arguments.json(parser)


def plan(commands: Any) -> None:
    """`jaxprune plan show` and `jaxprune plan diff`."""

    def show(options: argparse.Namespace) -> None:
        from jaxprune import pipeline

        _print.plan(pipeline.plan_rows(options.plan), as_json=options.json)

    def diff(options: argparse.Namespace) -> None:
        from jaxprune import pipeline

        _print.differences(pipeline.plan_diff(options.plan, options.other), as_json=options.json)

    parser = commands.add_parser('plan', help='show a pruning plan, or compare two')
    actions = parser.add_subparsers(metavar='ACTION', required=True)
    for name, run, summary in (('show', show, 'show a plan'), ('diff', diff, 'compare two plans')):
        action = arguments.command(actions, name, run, summary)
        action.add_argument('plan', metavar='PLAN', help='plan file, or a model that was pruned')
        if name == 'diff':
            action.add_argument('other', metavar='OTHER', help='the plan to compare with')
        arguments.json(action)


def detect(commands: Any) -> None:
    """`jaxprune detect`."""

    def run(options: argparse.Namespace) -> None:
        from jaxprune import pipeline

        _print.detected(
            pipeline.detect(
                options.model,
                options.source,
                options.output,
                image_size=options.img,
                conf=options.conf,
                iou=options.iou,
                classes=options.classes,
                agnostic=options.agnostic,
                batch=options.batch,
            )
        )

    parser = arguments.command(commands, 'detect', run, 'find objects in images')
    arguments.model(parser)
    parser.add_argument('--source', required=True, nargs='+', metavar='IMAGES', help='images, or folders of images')
    parser.add_argument('--classes', type=int, nargs='+', metavar='INDEX', help='only these classes')
    parser.add_argument('--agnostic', action='store_true', help='suppress boxes across classes')
    arguments.image_size(parser)
    arguments.evaluation(parser, conf=0.25, iou=0.45)
    arguments.output(parser, 'directory for annotated pictures, labels/*.txt and detections.json')


def val(commands: Any) -> None:
    """`jaxprune val`."""

    def run(options: argparse.Namespace) -> None:
        from jaxprune import pipeline

        result = pipeline.val(
            options.model,
            options.data,
            split=options.split,
            image_size=options.img,
            batch=options.batch,
            conf=options.conf,
            iou=options.iou,
        )
        _print.val(result, as_json=options.json)

    parser = arguments.command(commands, 'val', run, 'measure P, R and mAP on a data set')
    arguments.model(parser)
    arguments.data(parser)
    arguments.image_size(parser)
    arguments.evaluation(parser)
    arguments.json(parser)


def scan(commands: Any) -> None:
    """`jaxprune scan`."""

    def run(options: argparse.Namespace) -> None:
        from jaxprune import pipeline, sensitivity

        settings = _scan_settings(options)
        share = None if options.share is None else sensitivity.Share(*options.share)  # None: as JAX says
        if options.preview:
            _print.preview(pipeline.preview(options.model, options.data, **settings), as_json=options.json)
        elif options.estimate:
            found = pipeline.estimate(options.model, options.data, share=share, **settings)
            _print.estimate(found, as_json=options.json, raced=options.racing is not None)
        else:
            rows = pipeline.scan(options.model, options.data, options.output, share=share, **settings)
            _print.scanned(rows, as_json=options.json)

    parser = arguments.command(commands, 'scan', run, 'measure what pruning each layer alone would cost')
    arguments.model(parser)
    arguments.data(parser)
    arguments.rates(parser)
    parser.add_argument('--layers', nargs='+', metavar='LAYER', help='only these layers (index or name)')
    arguments.ranking(parser, excluded='leave out')
    arguments.seed(parser, 'of criterion random, of the images drawn and of their order in a race')
    arguments.image_size(parser)
    arguments.evaluation(parser)
    parser.add_argument(
        '--metric',
        default='map',
        choices=('map', 'loss', 'distance'),
        help='what is measured: P, R and mAP (map), '
        'the loss of training, or the distance to the outputs of the unpruned model',
    )
    less = parser.add_argument_group('less than the whole table')
    less.add_argument('--images', type=int, metavar='N', help='only so many images, drawn with the seed')
    less.add_argument(
        '--intervals',
        action=argparse.BooleanOptionalAction,
        help='95 %% confidence intervals, by bootstrap over the images (with --images)',
    )
    arguments.racing(less)
    arguments.numbers_of_layers(less)
    less.add_argument('--ordered', action='store_true', help='first the cells that promise most, by a preview')
    where = parser.add_argument_group('resources')
    arguments.memory(where)
    arguments.share(where)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument('--estimate', action='store_true', help='only say how long it will take and how much memory')
    what.add_argument('--preview', action='store_true', help='only estimate what each cell costs, from derivatives')
    arguments.output(what, 'table to write or to go on with, a row per line', required=False)
    arguments.json(parser)


def _scan_settings(options: argparse.Namespace) -> dict[str, Any]:
    from jaxprune import pipeline

    return {
        'rates': options.rates,
        'layers': options.layers,
        'exclude': options.exclude,
        'criterion': options.criterion,
        'seed': options.seed,
        'split': options.split,
        'image_size': options.img,
        'batch': options.batch,
        'images': options.images,
        'measured': options.metric,
        'ordered': options.ordered,
        'intervals': options.intervals,
        'racing': options.racing,
        'select': pipeline.SelectSettings(
            params_layers=options.params_layers, flops_layers=options.flops_layers, map_power=options.map_power
        ),
        'memory': options.memory,
        'conf': options.conf,
        'iou': options.iou,
    }


def select(commands: Any) -> None:
    """`jaxprune select`."""

    def run(options: argparse.Namespace) -> None:
        from jaxprune import pipeline

        result = pipeline.select(
            options.scan,
            options.output,
            params_layers=options.params_layers,
            flops_layers=options.flops_layers,
            map_power=options.map_power,
            rule=options.rule,
        )
        _print.plan(result, as_json=options.json)

    parser = arguments.command(commands, 'select', run, 'choose layers and rates from a scan')
    parser.add_argument('scan', metavar='SCAN.jsonl', help='table that "jaxprune scan" wrote')
    arguments.selection(parser)
    arguments.output(parser, 'plan to write', required=False)
    arguments.json(parser)


def train(commands: Any) -> None:
    """`jaxprune train`."""

    def run(options: argparse.Namespace) -> None:
        from jaxprune import pipeline

        result = pipeline.train(
            options.model,
            options.data,
            options.output,
            epochs=options.epochs,
            recipe=options.recipe,
            image_size=options.img,
            batch=options.batch,
            seed=options.seed,
            optimizer=options.optimizer,
            learning_rate=options.lr,
        )
        _print.trained(result, as_json=options.json)

    parser = arguments.command(commands, 'train', run, 'train or fine-tune a model; goes on where it stopped')
    arguments.model(parser, 'model directory to start from')
    arguments.data(parser, split=False)
    parser.add_argument('--epochs', type=int, required=True, metavar='N')
    arguments.tuning(parser)
    arguments.image_size(parser)
    arguments.device(parser)
    arguments.seed(parser, 'of augmentation and order')
    arguments.output(parser, 'model directory to write; training goes on from what is beside it')
    arguments.json(parser)


def iterate(commands: Any) -> None:
    """`jaxprune iterate`."""

    def run(options: argparse.Namespace) -> None:
        from jaxprune import pipeline

        settings = pipeline.IterateSettings(
            iterations=options.iterations,
            keep_params=options.keep_params,
            rates=tuple(options.rates),
            exclude=tuple(options.exclude),
            criterion=options.criterion,
            racing=options.racing,
            params_layers=options.params_layers,
            flops_layers=options.flops_layers,
            map_power=options.map_power,
            rule=options.rule,
            epochs=options.epochs,
            recipe=options.recipe,
            optimizer=options.optimizer,
            learning_rate=options.lr,
            image_size=options.img,
            batch=options.batch,
            seed=options.seed,
        )
        _print.iterated(pipeline.iterate(options.model, options.data, options.output, settings), as_json=options.json)

    parser = arguments.command(
        commands, 'iterate', run, 'repeat scan, select, prune, fine-tune and evaluate; goes on where it stopped'
    )
    arguments.model(parser, 'model directory to start from')
    arguments.data(parser, split=False)
    until = parser.add_mutually_exclusive_group(required=True)
    until.add_argument('--iterations', type=int, metavar='N', help='how often')
    until.add_argument(
        '--keep-params', type=float, metavar='SHARE', help='until at most this share of parameters is left'
    )
    arguments.rates(parser)
    arguments.racing(parser)
    arguments.ranking(parser)
    arguments.selection(parser)
    parser.add_argument('--epochs', type=int, default=20, metavar='N', help='of fine-tuning per iteration (20)')
    arguments.tuning(parser)
    arguments.image_size(parser)
    arguments.device(parser)
    arguments.seed(parser, 'of everything random')
    arguments.output(parser, 'run directory, with report.html')
    arguments.json(parser)


def demo(commands: Any) -> None:
    """`jaxprune demo`."""

    def run(options: argparse.Namespace) -> None:
        from jaxprune import pipeline

        _print.iterated(pipeline.demo(options.output), as_json=options.json)

    parser = arguments.command(
        commands, 'demo', run, 'prune the small detector that comes with the package, on drawn images'
    )
    parser.add_argument('-o', '--output', default='runs/demo', metavar='PATH', help='run directory (runs/demo)')
    arguments.device(parser)
    arguments.json(parser)


COMMANDS = (
    _models.new, _models.convert, _models.info, _models.graph, prune, plan, detect, val, scan, select, train,
    _models.export, iterate, demo,
)  # fmt: skip
