"""CT slices to patch datasets with proof of where each patch came from."""

from ctpatch._version import __version__

__all__ = ["__version__"]
