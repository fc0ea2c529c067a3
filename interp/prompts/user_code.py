"""What a user's own code is imported from: ``path/to/file.py:name`` or ``package.module:name``."""

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from interp.errors import InputError, one_line

FAILURES = (Exception, SystemExit)
"""What a user's own code may end in; after its ``sys.exit`` this program would end without a word."""


USER_CODE = "user_code_"
"""How the module of a user's file is called, before the file's name and a hash of where it is and what it holds."""


def load_object(spec: str) -> Any:
    """What ``spec`` names in a file or a module; an :class:`InputError` where there is none, or importing it failed."""
    source, _, name = spec.rpartition(":")
    module = _import_file(Path(source)) if source.endswith(".py") else _import_module(source, spec)
    if not hasattr(module, name):
        public = {key: value for key, value in vars(module).items() if key[0] != "_"}
        named = [k for k, value in public.items() if getattr(value, "__module__", None) == module.__name__]
        raise InputError(f"{source} has no {name!r}; it has {', '.join(named) or 'nothing of its own'}")
    return getattr(module, name)


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    # files in two places share a name, and a file that was edited is another; else what it holds stays the same object
    identity = hashlib.sha256(str(path.resolve()).encode() + path.read_bytes()).hexdigest()[:8]
    name = f"{USER_CODE}{path.stem}_{identity}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # of a name that ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for what their annotations name
    try:
        spec.loader.exec_module(module)
    except FAILURES as error:
        sys.modules.pop(name, None)
        raise InputError(f"{path}: importing it failed: {told(error)}") from error
    return module


def _import_module(name: str, spec: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except FAILURES as error:
        raise InputError(f"{spec}: importing {name!r} failed: {told(error)}") from error


def told(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(error)}"
