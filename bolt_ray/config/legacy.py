"""Settings as people already have them from earlier systems, moved to where they live here.

Only names listed here are moved; everything else is left for the schema to accept or refuse.
"""

from __future__ import annotations

from typing import Any

from bolt_ray.core.errors import ConfigError

Tree = dict[str, Any]

_MOVES: dict[str, tuple[str, str]] = {
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


def translate(tree: Tree) -> Tree:
    """The tree with ``algo: BOLT``-style ``train:`` keys moved to their sections.

    The three switches pick the mode, and one that is not there is off: ``curriculum_enabled`` chooses the
    uncertainty strategy over uniform, ``use_baseline_advantages`` the tracker over group advantages, and
    ``baseline_enabled`` is always true here (the tracker learns in every mode). ``per_device_batch_size`` prompts ×
    ``num_generations`` on each learner rank make ``rollouts_per_step``.

    Raises:
        ConfigError: a value is given under both its old and its new name, or switches contradict each other.
    """
    cluster = tree.get("cluster")
    if isinstance(cluster, dict) and isinstance(cluster.get("use_gpu"), bool):  # YAML's bare yes and no
        tree = {**tree, "cluster": {**cluster, "use_gpu": "yes" if cluster["use_gpu"] else "no"}}
    kl = tree.get("kl")
    if isinstance(kl, dict) and "adaptation" in kl:
        tree = {**tree, "kl": {**kl, "adaptation": _one_or_several(kl["adaptation"])}}
    train = tree.get("train")
    if not isinstance(train, dict):
        return tree
    train, moved = dict(train), {key: value for key, value in tree.items() if key != "train"}

    def put(old: str, section: str, key: str, value: Any) -> None:
        target = dict(moved.get(section) or {})
        if key in target and target[key] != value:
            raise ConfigError(
                f"train.{old} = {value!r} and {section}.{key} = {target[key]!r} name the same setting; keep one"
            )
        target[key] = value
        moved[section] = target

    for old, (section, key) in _MOVES.items():
        if old in train:
            value = train.pop(old)
            if value is not None:
                put(old, section, key, value)
    if "clip" in train:
        clip = train.pop("clip")
        put("clip", "loss", "clip_low", clip)
        put("clip", "loss", "clip_high", clip)
    switched = any(train.get(name) is not None for name in SWITCHES)
    _switches(train, put)
    if switched and "group_size" not in (moved.get("rollout") or {}):
        put("num_generations", "rollout", "group_size", _known_group_size(moved))
    if "per_device_batch_size" in train:
        prompts = train.pop("per_device_batch_size")
        samples = (moved.get("rollout") or {}).get("group_size", 1)
        ranks = (moved.get("cluster") or {}).get("num_learners", 1)
        put("per_device_batch_size", "rollout", "rollouts_per_step", prompts * samples * ranks)
    moved["train"] = train
    return moved


def _one_or_several(names: Any) -> Any:
    """``kl.adaptation`` may be one name, or "none"."""
    if names in (None, "none"):
        return ()
    return (names,) if isinstance(names, str) else names


def _switches(train: Tree, put: Any) -> None:
    """The mode, if any of its switches is there; those that are not are off. K is what that mode is known with."""
    curriculum, enabled, advantages = (train.pop(name, None) for name in SWITCHES)
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
