"""Hypothesis draws the same examples every time: a law that fails here fails everywhere, and no run is luckier than another."""

from hypothesis import settings

settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
settings.load_profile("fixed")
