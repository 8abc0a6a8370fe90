"""Downloads that go on where they stopped; released checkpoints by name, kept and held to the checksum first seen."""

from jaxprune.downloads._releases import cache, fetch, releases
from jaxprune.downloads._transfer import cause, download, forget

__all__ = ['cache', 'cause', 'download', 'fetch', 'forget', 'releases']
