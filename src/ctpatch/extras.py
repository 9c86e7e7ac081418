"""Libraries that come with an extra: imported where they are needed, with the install line where they are missing."""

import importlib
from typing import Any

from ctpatch.errors import UsageError


def library(module: str, needed: str) -> Any:
    """Import a library of the extra `prepare`.

    Args:
        module: the module, such as `scipy.ndimage`.
        needed: what needs it, as a sentence without its end: `resampling needs scipy`.

    Raises:
        UsageError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UsageError(f"{needed}; pip install 'ctpatch[prepare]'") from None
