"""Blind Oracle: package signing for build servers that hold no private key."""

__all__ = ["__version__"]

__version__ = "0.1.0"
