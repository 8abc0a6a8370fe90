"""Adapters that make a module follow the shapes of its variables: Flax Linen, Flax NNX, Equinox, plain functions.

A module's source states its widths (`features=64`), and so do the layers that it makes. The functions here bring those
numbers in line with smaller variables, without a change to the user's source.

Where shapes alone leave open what became smaller (heads or the size of a head, groups or the channels of a group), the
number of heads or groups stays as it is wherever the channels divide by it.
"""

from jaxprune.frameworks._following import following
from jaxprune.frameworks._resize import resize

__all__ = ['following', 'resize']
