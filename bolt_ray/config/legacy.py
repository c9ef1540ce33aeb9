"""Settings as people already have them from earlier systems, moved to where they live here.

Only names listed here are moved; everything else is left for the schema to accept or refuse.
"""

from __future__ import annotations

from typing import Any

from bolt_ray.config.presets import PRESETS, Tree
from bolt_ray.core.errors import ConfigError

MOVES: dict[str, tuple[str, str]] = {
    "curriculum_epsilon": ("curriculum", "epsilon"),
    "curriculum_update_freq": ("curriculum", "update_freq"),
    "baseline_rho_min": ("baseline", "rho_min"),
    "baseline_rho_max": ("baseline", "rho_max"),
    "baseline_D_half": ("baseline", "d_half"),
    "baseline_warm_start": ("baseline", "warm_start"),
    "num_generations": ("rollout", "group_size"),
    "group_size": ("rollout", "group_size"),
    "max_new_tokens": ("sampling", "max_new_tokens"),
    "temperature": ("sampling", "temperature"),
    "kl_coef": ("kl", "coef"),
}

SWITCHES = ("curriculum_enabled", "baseline_enabled", "use_baseline_advantages")

REWARD_TYPES = {"math_reasoning": "math"}
"""Types of rewards by their earlier name."""


def translate(tree: Tree) -> Tree:
    """The tree with ``algo: BOLT``-style ``train:`` keys moved to their sections.

    The three switches pick the mode, and one that is not there is off: ``curriculum_enabled`` chooses the
    uncertainty strategy over uniform, ``use_baseline_advantages`` the tracker over group advantages, and
    ``baseline_enabled`` is always true here (the tracker learns in every mode). ``per_device_batch_size`` prompts ×
    ``num_generations`` on each learner rank make ``rollouts_per_step``. A reward of an earlier type is one of today's.

    Raises:
        ConfigError: a value is given under both its old and its new name, switches contradict each other or are
            neither true nor false, or a number of the batch is none.
    """
    cluster = tree.get("cluster")
    if isinstance(cluster, dict) and isinstance(cluster.get("use_gpu"), bool):  # YAML's bare yes and no
        tree = {**tree, "cluster": {**cluster, "use_gpu": "yes" if cluster["use_gpu"] else "no"}}
    kl = tree.get("kl")
    if isinstance(kl, dict) and "adaptation" in kl:
        tree = {**tree, "kl": {**kl, "adaptation": _one_or_several(kl["adaptation"])}}
    if isinstance(tree.get("rewards"), list | tuple):
        tree = _rewards(tree)
    train = tree.get("train")
    if not isinstance(train, dict):
        return tree
    train, moved = dict(train), {key: value for key, value in tree.items() if key != "train"}

    def put(old: str, section: str, key: str, value: Any) -> None:
        target = _section(moved, section)
        if key in target and target[key] != value:
            raise ConfigError(
                f"train.{old} = {value!r} and {section}.{key} = {target[key]!r} name the same setting; keep one"
            )
        target[key] = value
        moved[section] = target

    for old, (section, key) in MOVES.items():
        if old in train:
            value = train.pop(old)
            if value is not None:
                put(old, section, key, value)
    clip = train.pop("clip", None)
    if clip is not None:
        put("clip", "loss", "clip_low", clip)
        put("clip", "loss", "clip_high", clip)
    switched = any(train.get(name) is not None for name in SWITCHES)
    _switches(train, put)
    if switched and "group_size" not in _section(moved, "rollout"):
        put("num_generations", "rollout", "group_size", _known_group_size(moved))
    prompts = train.pop("per_device_batch_size", None)
    if prompts is not None:
        preset = PRESETS.get(str(tree.get("algo")), {}).get("rollout", {})
        samples = (preset | _section(moved, "rollout")).get("group_size", 1)
        ranks = _section(moved, "cluster").get("num_learners", 1)
        numbers = {"per_device_batch_size": prompts, "num_generations": samples, "cluster.num_learners": ranks}
        for name, number in numbers.items():
            if isinstance(number, bool) or not isinstance(number, int):
                raise ConfigError(f"train.per_device_batch_size needs {name} to be a whole number, not {number!r}")
        put("per_device_batch_size", "rollout", "rollouts_per_step", prompts * samples * ranks)
    moved["train"] = train
    return moved


def _section(tree: Tree, name: str) -> Tree:
    """A copy of a section; empty where it is not there.

    Raises:
        ConfigError: it is something else than a mapping.
    """
    section = tree.get(name)
    if section is None:
        return {}
    if not isinstance(section, dict):
        raise ConfigError(f"{name}: is a section of settings, not {section!r}")
    return dict(section)


def _rewards(tree: Tree) -> Tree:
    """The tree with rewards by their types of today, also where a dataset asks for one by its type."""
    given = tree["rewards"]
    names = [entry.get("name") if isinstance(entry, dict) else None for entry in given]
    types = [entry.get("type") if isinstance(entry, dict) else entry for entry in given]
    renamed = {
        old: new
        for old, new in REWARD_TYPES.items()
        if old not in names and any(kind == old and not name for kind, name in zip(types, names, strict=True))
    }
    tree = {**tree, "rewards": [_reward(entry) for entry in given]}
    tree = {**tree, **_asking_for(tree, renamed)}
    if isinstance(tree.get("eval"), dict):
        tree["eval"] = {**tree["eval"], **_asking_for(tree["eval"], renamed)}
    return tree


def _asking_for(section: Tree, renamed: dict[str, str]) -> Tree:
    """The ``datasets`` of a section with the rewards they ask for by today's names; empty if there are none."""

    def now(reward: Any) -> Any:
        if isinstance(reward, dict):
            return {source: now(name) for source, name in reward.items()}
        return renamed.get(reward, reward) if isinstance(reward, str) else reward

    datasets = section.get("datasets")
    if not isinstance(datasets, list | tuple):
        return {}
    return {
        "datasets": [
            {**entry, "reward": now(entry["reward"])} if isinstance(entry, dict) and "reward" in entry else entry
            for entry in datasets
        ]
    }


def _reward(entry: Any) -> Any:
    """An entry of ``rewards`` with its type's name of today."""
    if isinstance(entry, dict) and isinstance(entry.get("type"), str):
        return {**entry, "type": REWARD_TYPES.get(entry["type"], entry["type"])}
    return REWARD_TYPES.get(entry, entry) if isinstance(entry, str) else entry


def _one_or_several(names: Any) -> Any:
    """``kl.adaptation`` may be one name, or "none"."""
    if names in (None, "none"):
        return ()
    return (names,) if isinstance(names, str) else names


def _switches(train: Tree, put: Any) -> None:
    """The mode, if any of its switches is there; those that are not are off. K is what that mode is known with."""
    given = {name: train.pop(name, None) for name in SWITCHES}
    for name, value in given.items():
        if value not in (None, True, False):
            raise ConfigError(f"train.{name}: is true or false, not {value!r}")
    curriculum, enabled, advantages = given.values()
    if curriculum is None and enabled is None and advantages is None:
        return
    if advantages and enabled is False:
        raise ConfigError("train.use_baseline_advantages needs train.baseline_enabled; one says yes, one says no")
    put("curriculum_enabled", "curriculum", "strategy", "uncertainty" if curriculum else "uniform")
    put("use_baseline_advantages", "advantage", "baseline", "tracker" if advantages else "group")
    put("use_baseline_advantages", "advantage", "normalize", "token" if advantages else "group")


def _known_group_size(tree: Tree) -> int:
    """Completions per prompt of a mode that names none: 8 with group advantages, 2 with the tracker's alone, else 1."""
    if tree["advantage"]["baseline"] == "group":
        return 8
    return 1 if tree["curriculum"]["strategy"] == "uncertainty" else 2
