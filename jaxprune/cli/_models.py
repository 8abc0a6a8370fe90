"""Commands that make a model, turn it into another format, or show what it is."""

import argparse
from typing import Any

from jaxprune.cli import _arguments as arguments
from jaxprune.cli import _print


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

    parser = arguments.command(commands, 'new', run, 'make a model with random weights')
    parser.add_argument('architecture', help='such as yolov7, yolov7x, yolov7-tiny, yolov7-w6 or yolov7-e6e')
    parser.add_argument('--form', default='training', choices=arguments.FORMS, help='(training)')
    parser.add_argument('--classes', nargs='+', default=['80'], help='how many, or their names (80)')
    parser.add_argument('--width', type=float, default=1.0, metavar='FACTOR', help='scales every channel count (1)')
    arguments.seed(parser, 'of the weights')
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

    parser = arguments.command(
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

    parser = arguments.command(commands, 'info', run, 'count parameters and GFLOPs, in all and per layer')
    arguments.model(parser)
    arguments.image_sides(parser)
    arguments.json(parser)


def graph(commands: Any) -> None:
    """`jaxprune graph`."""

    def run(options: argparse.Namespace) -> None:
        from jaxprune import pipeline

        _print.graph(pipeline.connections(options.model, output=options.output), as_json=options.json)

    parser = arguments.command(commands, 'graph', run, 'show which layer reads which channels of which')
    arguments.model(parser)
    arguments.output(parser, 'SVG drawing to write', required=False)
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

    parser = arguments.command(commands, 'export', run, 'write a model for another runtime')
    arguments.model(parser)
    parser.add_argument('--format', default='onnx', choices=('onnx',), help='(onnx)')
    arguments.image_sides(parser)
    parser.add_argument('--batch', type=int, default=1, metavar='N', help='images per run; 0: any number (1)')
    parser.add_argument('--decoded', action='store_true', help='boxes and probabilities in place of raw heads')
    parser.add_argument('--opset', type=int, default=17, help='(17)')
    arguments.output(parser, 'file to write')
    arguments.json(parser)
