"""The whole run, in one process or many.

`coalesce.run` is also the name of the library's function. Whoever imports this package sets that
name to it, so it can be called, and is pickled as any function is.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from typing_extensions import override


class _Callable(ModuleType):
    """This package as the function `coalesce.run`."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.__wrapped__(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        if name == "__wrapped__":  # which inspect and help ask for
            return import_module("coalesce.library.calls").run
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

    @override
    def __reduce__(self) -> tuple[object, ...]:
        return import_module, (self.__name__,)


sys.modules[__name__].__class__ = _Callable
