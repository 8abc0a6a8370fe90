"""Released checkpoints by name: downloaded once, kept in a cache directory, held to the checksum first seen."""

from jaxprune.downloads._releases import cache, fetch, releases

__all__ = ['cache', 'fetch', 'releases']
