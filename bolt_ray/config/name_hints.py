"""What a key that is no setting could be: a name known from elsewhere, a namesake in another section, a misspelling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from bolt_ray.config.known_names import LIBRARIES, Here
from bolt_ray.config.schema import RunConfig
from bolt_ray.config.tree import known_keys, walk
from bolt_ray.core.hints import nearest

_SPELLING, _SPELLING_ELSEWHERE = 0.83, 0.9
"""A key less similar to a setting of its own section, or of another, is no misspelling of it: ``save_steps`` is 0.74 of
``max_steps``. Nor is one of more or fewer words: ``entropy_coef_max`` is not ``entropy_coef``."""


def name_hint(place: Sequence[str]) -> str:
    """``; here that is kl.coef`` for a key at ``place`` that is no setting, "" where nothing is like it.

    A name of the table comes before a namesake in another section, since the table knows which of several is meant
    (``temperature``, or TRL's ``epsilon``, which is not the curriculum's); what is spelled alike comes last.
    Entries of lists may be given by their index.
    """
    words = _words(place)
    meanings = _meanings(words)
    if len(meanings) > 1:
        return "; here " + ", ".join(f"{whose} is {_said(entry)}" for entry, whose in meanings.items())
    for entry in meanings:
        return f"; here that is {_said(entry)}" if entry.settings else f"; {entry.note}"
    namesakes = _namesakes(words)
    if namesakes:
        return f"; there is {' and '.join(namesakes)}"
    return _misspelled(words)


def unknown_key(place: Sequence[str], value: Any) -> list[tuple[str, str]]:
    """What to say of a key that is no setting, as (key, message): one line, and one for each name known in a mapping.

    Args:
        place: of the key.
        value: what the user gave it; of a mapping, a whole section of another library, its keys are looked up too,
            unless the section is a misspelled one of ours or the table says all there is to say of it.
    """
    hint = name_hint(place)
    said = [(".".join(place), f"there is no such setting{hint or _all_of(place[:-1])}")]
    final = any(entry.note for entry in _meanings(_words(place)))
    if not isinstance(value, Mapping) or final or "did you mean" in hint:
        return said
    hints = {leaf: name_hint([*place, *leaf]) for leaf in _leaves(value)}
    said += [(".".join([*place, *leaf]), found.removeprefix("; ")) for leaf, found in hints.items() if found]
    unheard = [".".join(leaf) for leaf, found in hints.items() if not found]
    if unheard and len(said) > 1:
        said.append((".".join(place), f"nothing here is like its {', '.join(unheard)}"))
    return said


def _words(place: Sequence[str]) -> list[str]:
    """The names in a place, without a list's indices and Hydra's ``+``; a key may itself be dotted."""
    parts = [part for each in place for part in each.lstrip("+").replace("[]", "").split(".")]
    return [part for part in parts if part and not part.isdigit()] or [""]


def _meanings(words: Sequence[str]) -> Mapping[Here, str]:
    """What the longest end of ``words`` that is in the table can mean, and whose meaning that is."""
    ends = (".".join(words[start:]) for start in range(len(words)))
    return next((_table()[end] for end in ends if end in _table()), {})


def _said(entry: Here) -> str:
    settings = " and ".join(filter(None, (", ".join(entry.settings[:-1]), *entry.settings[-1:])))
    return f"{settings} ({entry.note})" if settings and entry.note else settings or entry.note


@cache
def _table() -> dict[str, dict[Here, str]]:
    """Each known name with what it can mean and whose meaning that is; of two that agree the first is enough."""
    table: dict[str, dict[Here, str]] = {}
    for library, names in LIBRARIES.items():
        for key, entry in names.items():
            for name in key.split():
                meanings = table.setdefault(name, {})
                if all(other.settings != entry.settings for other in meanings):
                    meanings[entry] = f"{library}'" if library.endswith("s") else f"{library}'s"
    return table


def _namesakes(words: Sequence[str]) -> list[str]:
    """Settings of that name with their meaning, those of an entry of a list only where there is no other.

    One common word (``mode``, ``path``) below a section that is not ours says nothing, unless ours stands before it.
    """
    found = {key: meaning for key, meaning in _settings().items() if key.rpartition(".")[2] == words[-1]}
    if not _is_ours(words) and "_" not in words[-1]:
        found = {key: meaning for key, meaning in found.items() if key.partition(".")[0] in words[:-1]}
    plain = {key: meaning for key, meaning in found.items() if "[]" not in key}
    return [f"{key} ({meaning.partition(';')[0]})" for key, meaning in (plain or found).items()]


def _is_ours(words: Sequence[str]) -> bool:
    """Whether a key stands at the top level or below a section of ours, of which three have sections in them."""
    return len(words) == 1 or words[0] in (
        RunConfig.model_fields if len(words) == 2 else ("rewards", "datasets", "eval")
    )


@cache
def _settings() -> dict[str, str]:
    """Every setting with its meaning; the entries of eval.datasets are those of datasets."""
    found = {".".join(place): field.description for place, field in walk()}
    return {key: meaning for key, meaning in found.items() if not key.startswith("eval.datasets[]")}


def _misspelled(words: Sequence[str]) -> str:
    """The setting of its own section, else of any, that a key is all but equal to."""
    if not _is_ours(words) and "_" not in words[-1]:
        return ""
    own = {name: name for name in known_keys(words[:-1])} if _is_ours(words) else {}
    elsewhere = {key.rpartition(".")[2]: key for key in _settings()}
    tabled = {name: entry.settings[0] for name in elsewhere for entry in _meanings([name]) if entry.settings}
    for names, cutoff in ((own, _SPELLING), (elsewhere | tabled, _SPELLING_ELSEWHERE)):
        alike = [name for name in names if name.count("_") == words[-1].count("_")]
        near = nearest(words[-1], alike, cutoff=cutoff)
        if near:
            return f"; did you mean {names[near]!r}?"
    return ""


def _all_of(section: Sequence[str]) -> str:
    known = known_keys(section)
    return f"; known here: {', '.join(known)}" if known else ""


def _leaves(tree: Mapping[Any, Any], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The places of a mapping's values, through the mappings in it."""
    found: list[tuple[str, ...]] = []
    for key, value in tree.items():
        place = (*above, str(key))
        found += _leaves(value, place) if isinstance(value, Mapping) and value else [place]
    return found
