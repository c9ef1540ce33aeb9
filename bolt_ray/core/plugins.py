"""Objects named by text: ``package.module:name``, or ``path/to/file.py:name`` for a user's own code."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import xxhash


def is_reference(name: str) -> bool:
    """True for ``module:name`` and ``file.py:name``, False for the plain name of something built in."""
    return ":" in name


def load_object(reference: str) -> Any:
    """What ``module:name`` or ``file.py:name`` names; a relative file is looked for in the working directory.

    Raises:
        ValueError: malformed, or the file, module or name does not exist; says which.
    """
    place, _, name = reference.rpartition(":")
    if not place or not name.isidentifier():
        raise ValueError(f"{reference!r}: write it as module:name or path/to/file.py:name")
    if place.endswith(".py"):
        module = _load_file(place)
    else:
        try:
            module = importlib.import_module(place)
        except ImportError as error:
            raise ValueError(f"{reference!r}: module {place!r} cannot be imported ({error})") from error
    try:
        return getattr(module, name)
    except AttributeError:
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        raise ValueError(f"{place} has no {name!r}; it has: {', '.join(sorted(own)) or 'nothing'}") from None


def find_file(place: str) -> Path:
    """The absolute path of a user's file.

    Raises:
        ValueError: it is not there.
    """
    path = Path(place).expanduser().resolve()
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    return path


def absolute_reference(name: str, base_dir: Path) -> str:
    """``file.py:name`` with the file's path in ``base_dir`` or else the working directory; others as they are.

    Whoever reads the configuration knows where a relative file is looked for; the process that loads it, with another
    working directory, does not. A file that is in neither gets the path in the first, for the message.
    """
    place, _, attribute = name.rpartition(":")
    return f"{absolute_file(place, base_dir)}:{attribute}" if place.endswith(".py") else name


def absolute_file(place: str, base_dir: Path) -> Path:
    """A file of the user's in ``base_dir`` or else the working directory, as an absolute path."""
    given = Path(place).expanduser()
    tried = [base_dir.absolute() / given, Path.cwd() / given]  # of an absolute path both are the path itself
    return next((path for path in tried if path.is_file()), tried[0])


def plain_name(name: str) -> str:
    """``file.py:name`` without the file's directory, which may be another one when a run is resumed."""
    place, colon, attribute = name.rpartition(":")
    return f"{Path(place).name}:{attribute}" if colon and place.endswith(".py") else name


def _load_file(place: str) -> ModuleType:
    path = find_file(place)
    # One module per path, so that two files with the same name do not collide. Loaded once: a file that is edited
    # while a run uses it does not change the run.
    name = f"bolt_ray_user_{path.stem}_{xxhash.xxh32_hexdigest(str(path).encode())}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
