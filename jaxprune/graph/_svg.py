"""x"""


def to_svg(graph, labels): ...
