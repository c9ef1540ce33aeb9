"""``bolt-ray init``: a starter config, a dataset and, for a task of one's own, a reward, from the templates."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from rich.console import Console

from bolt_ray.core.errors import ConfigError
from bolt_ray.core.hints import nearest

TEMPLATES = ("math", "code", "format", "own")


def write_starter(directory: Path, *, template: str, console: Console) -> list[Path]:
    """Write the template's files into ``directory``, made if missing, and say what to do next.

    Raises:
        ConfigError: there is no such template, a file is there already (nothing is written then), or the directory
            cannot be written.
    """
    wanted = {source.name: source.read_bytes() for source in template_files(template)}
    there = [name for name in wanted if (directory / name).exists()]
    if there:
        raise ConfigError(
            f"{directory / there[0]} is there already and is not overwritten; name another directory: "
            f"bolt-ray init DIRECTORY --template {template}"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in wanted.items():
            (directory / name).write_bytes(content)
    except OSError as error:
        raise ConfigError(f"{directory}: the starter files cannot be written ({error.strerror})") from None
    lines = [f"wrote {directory / name}" for name in wanted]
    go = "" if directory.absolute() == Path.cwd() else f"cd {directory} && "
    lines.append(f"Next: {go}bolt-ray train config.yaml")
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
    return [directory / name for name in wanted]


def template_files(template: str) -> list[Traversable]:
    """The files of a template, as they are in the package.

    Raises:
        ConfigError: there is no such template.
    """
    if template not in TEMPLATES:
        near = nearest(template, TEMPLATES)
        hint = f"did you mean {near}? " if near else ""
        raise ConfigError(f"--template {template!r} is unknown; {hint}there are: {', '.join(TEMPLATES)}")
    folder = files("bolt_ray") / "templates" / template
    return sorted((file for file in folder.iterdir() if file.is_file()), key=lambda file: file.name)
