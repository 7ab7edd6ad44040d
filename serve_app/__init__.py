"""Trivium: one OpenAI-compatible endpoint, three roads, the cheapest one that answers well."""

__version__ = "0.1.0"
