"""Distilled sets of other authors: read as their files have them, and written as theirs."""

from atomlib.published.published_set import PublishedSet, read_published

__all__ = ["PublishedSet", "read_published"]
