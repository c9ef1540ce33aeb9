"""``bolt-ray docs``: the guides that come with the package."""

from __future__ import annotations

from importlib.resources import files

from bolt_ray.core.errors import ConfigError
from bolt_ray.core.hints import nearest

TOPICS = ("data", "reward", "model", "algorithm", "runs", "names", "trl")


def guide(topic: str | None) -> str:
    """One guide as Markdown; without a topic, what there is.

    Raises:
        ConfigError: there is no such guide.
    """
    if topic is None:
        return "".join(f"bolt-ray docs {name:<9} {_read(name).splitlines()[0].lstrip('# ')}\n" for name in TOPICS)
    if topic not in TOPICS:
        near = nearest(topic, TOPICS)
        hint = f"did you mean {near}? " if near else ""
        raise ConfigError(f"there is no guide {topic!r}; {hint}there are: {', '.join(TOPICS)}")
    return _read(topic)


def _read(topic: str) -> str:
    return (files("bolt_ray") / "guides" / f"{topic}.md").read_text(encoding="utf-8")
