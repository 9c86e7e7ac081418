"""The files of `examples/` as modules, for tests of the examples that train."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any


@contextmanager
def example_module(name: str, torch: Any) -> Iterator[ModuleType]:
    """An example's functions; what they set in torch for the whole process is set back at the end."""
    path = Path(__file__).parents[1] / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{name}_example", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tests run beside each other
    yield module
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(mode=False)
    del sys.modules[spec.name]
