"""Figures; each module draws one kind. `save` writes any of them."""

from mnemo.figures.style import save

__all__ = ["save"]
