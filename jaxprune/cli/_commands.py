"""One function per command: its arguments, and the pipeline function that it calls."""

import argparse
from collections.abc import Callable
from typing import Any

from jaxprune.cli import _arguments as arguments
from jaxprune.cli import _print


def _command(commands: Any, name: str, run: Callable[[argparse.Namespace], None], summary: str) -> Any:
    parser = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + '.')
    parser.set_defaults(run=run)
    return parser


def new(commands: Any) -> None:
    """`jaxprune new`."""

    def run(options: argparse.Namespace) -> None:
        from jaxprune import pipeline

        names = options.classes
        classes = int(names[0]) if len(names) == 1 and names[0].isdecimal() else names
        _print.model_line(
            pipeline.new(
                options.architecture,
                options.output,
                classes=classes,
                form=options.form,
                seed=options.seed,
                width_multiple=options.width,
                activation=options.activation,
            )
        )

    parser = _command(commands, 'new', run, 'make a model with random weights')
    parser.add_argument('architecture', help='such as yolov7, yolov7x, yolov7-tiny, yolov7-w6 or yolov7-e6e')
    parser.add_argument('--form', default='training', choices=arguments.FORMS, help='(training)')
    parser.add_argument('--classes', nargs='+', default=['80'], help='how many, or their names (80)')
    parser.add_argument('--width', type=float, default=1.0, metavar='FACTOR', help='scales every channel count (1)')
    parser.add_argument('--seed', type=int, default=0, help='of the weights (0)')
    arguments.activation(parser)
    arguments.output(parser, 'model directory to write')


def convert(commands: Any) -> None:
    """`jaxprune convert`."""

    def run(options: argparse.Namespace) -> None:
        from jaxprune import pipeline

        result = pipeline.convert(
            options.source,
            options.output,
            form=options.form,
            activation=options.activation,
            name=options.name,
            like=options.like,
            dtype='float16' if options.half else 'float32',
        )
        _print.converted(result, tensors=options.report, as_json=options.json)

    parser = _command(
        commands,
        'convert',
        run,
        'convert a PyTorch YOLOv7 checkpoint or a model, also back to PyTorch or to another form',
    )
    parser.add_argument(
        'source',
        metavar='FILE.pt|MODEL|NAME',
        help='checkpoint, model directory, or released checkpoint to download, such as yolov7-tiny',
    )
    parser.add_argument('--form', choices=arguments.FORMS, help='form of the result (as it is)')
    arguments.activation(parser)
    parser.add_argument('--name', help='name of the architecture (as in the file)')
    parser.add_argument(
        '--like', metavar='ORIGINAL.pt', help='write a whole checkpoint like this one, which the model came from'
    )
    parser.add_argument('--half', action='store_true', help='write a PyTorch file in half precision')
    parser.add_argument('--report', action='store_true', help='show what became of every tensor of a PyTorch file')
    arguments.output(parser, 'model directory to write, or a PyTorch file (.pt): a state_dict')
    arguments.json(parser)


def info(commands: Any) -> None:
    """`jaxprune info`."""

    def run(options: argparse.Namespace) -> None:
        from jaxprune import pipeline

        _print.info(pipeline.info(options.model, image_size=arguments.size(options.img)), as_json=options.json)

    parser = _command(commands, 'info', run, 'count parameters and GFLOPs, in all and per layer')
    parser.add_argument('model', metavar='MODEL', help='model directory')
    arguments.image_sides(parser)
    arguments.json(parser)


def graph(commands: Any) -> None:
    """`jaxprune graph`."""

    def run(options: argparse.Namespace) -> None:
        from jaxprune import pipeline

        _print.graph(pipeline.connections(options.model, output=options.output), as_json=options.json)

    parser = _command(commands, 'graph', run, 'show which layer reads which channels of which')
    parser.add_argument('model', metavar='MODEL', help='model directory')
    arguments.output(parser, 'SVG drawing to write', required=False)
    arguments.json(parser)


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

    parser = _command(commands, 'prune', run, 'remove filters, and everything that read them')
    parser.add_argument('model', metavar='MODEL', help='model directory')
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument('--layers', metavar='LAYER:RATE,...', help='rates by layer index or name, as in 8:0.5,18:0.5')
    what.add_argument('--rate', type=float, help='one rate for every layer that can be pruned')
    what.add_argument('--plan', metavar='FILE', help='rates or kept filters from a JSON file')
    arguments.criterion(parser)
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
        action = _command(actions, name, run, summary)
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

    parser = _command(commands, 'detect', run, 'find objects in images')
    parser.add_argument('model', metavar='MODEL', help='model directory')
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

    parser = _command(commands, 'val', run, 'measure P, R and mAP on a data set')
    parser.add_argument('model', metavar='MODEL', help='model directory')
    arguments.data(parser)
    arguments.image_size(parser)
    arguments.evaluation(parser)
    arguments.json(parser)


def scan(commands: Any) -> None:
    """`jaxprune scan`."""

    def run(options: argparse.Namespace) -> None:
        from jaxprune import pipeline

        pipeline.scan(
            options.model,
            options.data,
            options.output,
            rates=options.rates,
            layers=options.layers,
            exclude=options.exclude,
            criterion=options.criterion,
            seed=options.seed,
            split=options.split,
            image_size=options.img,
            batch=options.batch,
            conf=options.conf,
            iou=options.iou,
        )

    parser = _command(commands, 'scan', run, 'measure what pruning each layer alone would cost')
    parser.add_argument('model', metavar='MODEL', help='model directory')
    arguments.data(parser)
    parser.add_argument('--rates', type=float, nargs='+', default=[0.25, 0.5, 0.75], help='(0.25 0.5 0.75)')
    parser.add_argument('--layers', nargs='+', metavar='LAYER', help='only these layers (index or name)')
    parser.add_argument(
        '--exclude', nargs='+', default=[], metavar='PATTERN', help='layers (index or name) to leave out'
    )
    parser.add_argument('--criterion', default='l2', choices=arguments.CRITERIA, help='(l2)')
    parser.add_argument('--seed', type=int, default=0, help='of criterion random (0)')
    arguments.image_size(parser)
    arguments.evaluation(parser)
    arguments.output(parser, 'table to write or to go on with, a row per line')


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

    parser = _command(commands, 'select', run, 'choose layers and rates from a scan')
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

    parser = _command(commands, 'train', run, 'train or fine-tune a model; goes on where it stopped')
    parser.add_argument('model', metavar='MODEL', help='model directory to start from')
    arguments.data(parser, split=False)
    parser.add_argument('--epochs', type=int, required=True, metavar='N')
    arguments.tuning(parser)
    arguments.image_size(parser)
    arguments.device(parser)
    parser.add_argument('--seed', type=int, default=0, help='of augmentation and order (0)')
    arguments.output(parser, 'model directory to write; training goes on from what is beside it')
    arguments.json(parser)


def export(commands: Any) -> None:
    """`jaxprune export`."""

    def run(options: argparse.Namespace) -> None:
        from jaxprune import pipeline

        result = pipeline.export_model(
            options.model,
            options.output,
            image_size=arguments.size(options.img),
            batch=options.batch or None,
            decoded=options.decoded,
            opset=options.opset,
        )
        _print.exported(result, as_json=options.json)

    parser = _command(commands, 'export', run, 'write a model for another runtime')
    parser.add_argument('model', metavar='MODEL', help='model directory')
    parser.add_argument('--format', default='onnx', choices=('onnx',), help='(onnx)')
    arguments.image_sides(parser)
    parser.add_argument('--batch', type=int, default=1, metavar='N', help='images per run; 0: any number (1)')
    parser.add_argument('--decoded', action='store_true', help='boxes and probabilities in place of raw heads')
    parser.add_argument('--opset', type=int, default=17, help='(17)')
    arguments.output(parser, 'file to write')
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

    parser = _command(
        commands, 'iterate', run, 'repeat scan, select, prune, fine-tune and evaluate; goes on where it stopped'
    )
    parser.add_argument('model', metavar='MODEL', help='model directory to start from')
    arguments.data(parser, split=False)
    until = parser.add_mutually_exclusive_group(required=True)
    until.add_argument('--iterations', type=int, metavar='N', help='how often')
    until.add_argument(
        '--keep-params', type=float, metavar='SHARE', help='until at most this share of parameters is left'
    )
    parser.add_argument('--rates', type=float, nargs='+', default=[0.25, 0.5, 0.75], help='(0.25 0.5 0.75)')
    parser.add_argument(
        '--exclude', nargs='+', default=[], metavar='PATTERN', help='layers (index or name) to keep whole'
    )
    parser.add_argument('--criterion', default='l2', choices=arguments.CRITERIA, help='(l2)')
    arguments.selection(parser)
    parser.add_argument('--epochs', type=int, default=20, metavar='N', help='of fine-tuning per iteration (20)')
    arguments.tuning(parser)
    arguments.image_size(parser)
    arguments.device(parser)
    parser.add_argument('--seed', type=int, default=0, help='(0)')
    arguments.output(parser, 'run directory, with report.html')
    arguments.json(parser)


def demo(commands: Any) -> None:
    """`jaxprune demo`."""

    def run(options: argparse.Namespace) -> None:
        from jaxprune import pipeline

        _print.iterated(pipeline.demo(options.output), as_json=options.json)

    parser = _command(commands, 'demo', run, 'prune the small detector that comes with the package, on drawn images')
    parser.add_argument('-o', '--output', default='runs/demo', metavar='PATH', help='run directory (runs/demo)')
    arguments.device(parser)
    arguments.json(parser)


COMMANDS = (new, convert, info, graph, prune, plan, detect, val, scan, select, train, export, iterate, demo)
