"""Arguments that several commands share."""

import argparse
import math
from collections.abc import Callable
from typing import Any

from jaxprune.errors import UserError

CRITERIA = ('l2', 'l1', 'l2-largest', 'l1-largest', 'bn', 'bn-l1', 'lamp', 'fpgm', 'random')
FORMS = ('training', 'deploy', 'fused')


def command(commands: Any, name: str, run: Callable[[argparse.Namespace], None], summary: str) -> Any:
    """A parser for one command: what it says of itself, and what it runs."""
    parser = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + '.')
    parser.set_defaults(run=run)
    return parser


def _number(kind: Callable[[str], Any], fits: Callable[[Any], bool], wanted: str) -> Callable[[str], Any]:
    """A type of arguments: numbers of a kind that fit."""

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not fits(value):
            raise argparse.ArgumentTypeError(f'{text}: give {wanted}')
        return value

    return read


_WHOLE = _number(int, lambda value: value >= 0, 'a whole number, 0 or more')
_CONFIDENCE = _number(float, lambda value: 0.5 <= value < 1, 'a number from 0.5 to below 1, such as 0.95')
_POSITIVE = _number(float, lambda value: 0 < value < math.inf, 'a number above 0')


def _part(text: str) -> tuple[int, int]:
    """`I/N`."""
    index, _, count = text.partition('/')
    if not (text.isascii() and index.isdecimal() and count.isdecimal() and int(count)):
        raise argparse.ArgumentTypeError(f'{text}: give I/N, such as 0/2 and 1/2 for two processes')
    if int(index) >= int(count):
        raise argparse.ArgumentTypeError(f'{text}: shares are counted from 0 to {int(count) - 1}')
    return int(index), int(count)


def output(parser: Any, text: str, *, required: bool = True) -> None:
    """The result's path."""
    parser.add_argument('-o', '--output', required=required, metavar='PATH', help=text)


def model(parser: Any, text: str = 'model directory') -> None:
    """The model that the command works on."""
    parser.add_argument('model', metavar='MODEL', help=text)


def activation(parser: Any) -> None:
    """Another activation for the whole network."""
    parser.add_argument(
        '--activation',
        metavar='NAME',
        help='silu, relu, relu6, leaky_relu:SLOPE or hardswish in place of its own, which asks for fine-tuning',
    )


def device(parser: Any) -> None:
    """Where to compute."""
    parser.add_argument('--device', metavar='NAME', help='cpu, gpu, tpu, or one of several as in gpu:1')


def share(parser: Any) -> None:
    """One of several processes that share the work."""
    several = parser.add_mutually_exclusive_group()
    several.add_argument(
        '--share',
        type=_part,
        metavar='I/N',
        help='do part I of N, counted from 0; the other parts are done by other processes with the same output, which '
        'need not know of each other',
    )
    several.add_argument(
        '--distributed',
        nargs='*',
        metavar='HOST:PORT N I',
        help='this is process I of N of one JAX job (a TPU pod), whose first process listens at HOST:PORT; nothing '
        'follows where JAX finds them itself',
    )


def memory(parser: Any) -> None:
    """How much of it may be used."""
    parser.add_argument(
        '--memory', type=_POSITIVE, metavar='GB', help='most memory: of each accelerator, or else in all'
    )


def image_size(parser: Any, default: int = 640) -> None:
    """Side of square images."""
    parser.add_argument('--img', type=int, default=default, metavar='SIZE', help=f'image size in pixels ({default})')


def image_sides(parser: Any) -> None:
    """Side, or height and width."""
    parser.add_argument(
        '--img', type=int, nargs='+', default=[640], metavar='SIZE', help='size, or height and width (640)'
    )


def size(sides: list[int]) -> int | tuple[int, int]:
    """What `image_sides` was given, as one number or a pair."""
    match sides:
        case [side]:
            return side
        case [height, width]:
            return height, width
    raise UserError(f'--img {" ".join(map(str, sides))}: give one number, or height and width')


def data(parser: Any, *, split: bool = True) -> None:
    """The data set."""
    parser.add_argument('--data', required=True, metavar='DATA.yaml', help='data set in YOLO or COCO layout')
    if split:
        parser.add_argument('--split', default='val', help='train, val or test (val)')


def evaluation(parser: Any, *, conf: float = 0.001, iou: float = 0.65) -> None:
    """How detections are made."""
    parser.add_argument('--batch', type=int, default=32, metavar='N', help='images per rectangular batch (32)')
    parser.add_argument('--conf', type=float, default=conf, help=f'lowest confidence ({conf})')
    parser.add_argument('--iou', type=float, default=iou, help=f'IoU above which a box is suppressed ({iou})')
    device(parser)


def ranking(parser: Any, *, excluded: str = 'keep whole') -> None:
    """What goes first, and where nothing goes."""
    parser.add_argument('--criterion', default='l2', choices=CRITERIA, help='what makes a filter unimportant (l2)')
    parser.add_argument(
        '--exclude', nargs='+', default=[], metavar='PATTERN', help=f'layers (index or name) to {excluded}'
    )


def rates(parser: Any) -> None:
    """What a scan tries."""
    parser.add_argument('--rates', type=float, nargs='+', default=[0.25, 0.5, 0.75], help='(0.25 0.5 0.75)')


def racing(parser: Any) -> None:
    """How far a scan tries it."""
    parser.add_argument(
        '--racing',
        type=_CONFIDENCE,
        nargs='?',
        const=0.95,
        metavar='CONFIDENCE',
        help='stop cells that "select" will not choose, with this confidence (0.95)',
    )


def seed(parser: Any, text: str) -> None:
    """Where random numbers start."""
    parser.add_argument('--seed', type=_WHOLE, default=0, help=f'{text} (0)')


def least(parser: Any) -> None:
    """How much stays at least."""
    parser.add_argument('--min-channels', type=int, metavar='N', help='filters that every layer keeps at least')
    parser.add_argument(
        '--round-to', type=int, metavar='N', help='round the number of kept filters up to a multiple of N'
    )


def json(parser: Any) -> None:
    """Output for programs."""
    parser.add_argument('--json', action='store_true', help='print one JSON object')


def selection(parser: Any) -> None:
    """How layers are chosen from a scan."""
    numbers_of_layers(parser)
    parser.add_argument('--rule', default='published', choices=('published', 'top'), help='(published)')


def numbers_of_layers(parser: Any) -> None:
    """How many layers are chosen, and how carefully."""
    parser.add_argument('--params-layers', type=int, default=6, metavar='K', help='layers chosen for parameters (6)')
    parser.add_argument('--flops-layers', type=int, default=5, metavar='K', help='layers chosen for FLOPs (5)')
    parser.add_argument('--map-power', type=float, default=20, metavar='P', help='power of the mAP in the score (20)')


def tuning(parser: Any) -> None:
    """How a model is trained."""
    parser.add_argument('--recipe', default='finetune', help='name in configs/train, or a file (finetune)')
    parser.add_argument('--batch', type=int, default=16, metavar='N', help='images per step (16)')
    parser.add_argument('--optimizer', choices=('sgd', 'adam'), help='(as in the recipe)')
    parser.add_argument('--lr', type=float, help='initial learning rate (as in the recipe)')
