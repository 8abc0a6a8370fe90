"""A pruned model without a change to its source: the original program, evaluated on sliced variables."""

from jaxprune.replaying._replay import kept_places, replay, replay_kept

__all__ = ['kept_places', 'replay', 'replay_kept']
