"""Stoker: private data in, a trained model out, and every promise on the way can be checked."""

__version__ = "0.1.0"
