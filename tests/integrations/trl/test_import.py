"""The integration needs TRL and nothing of the cluster: neither Ray nor vLLM nor DeepSpeed is imported."""

from __future__ import annotations

import subprocess
import sys

REFUSING = """
import sys
from importlib.machinery import PathFinder

REFUSED = {refused!r}

class Refusing(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in REFUSED else super().find_spec(name, path, target)

sys.meta_path[:] = [Refusing if finder is PathFinder else finder for finder in sys.meta_path]
"""


def run(code: str, *refused: str) -> subprocess.CompletedProcess[str]:
    """Python whose import system does not find some packages."""
    return subprocess.run(
        [sys.executable, "-c", REFUSING.format(refused=refused) + code],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_it_needs_neither_ray_nor_vllm_nor_deepspeed() -> None:
    done = run(
        """
import bolt_ray.integrations.trl as it
for name in it.__all__:
    getattr(it, name)
assert not {"ray", "vllm", "deepspeed"} & set(sys.modules), sorted(sys.modules)
print(sorted(it.__all__))
""",
        "ray",
        "vllm",
        "deepspeed",
    )
    assert done.returncode == 0, done.stderr
    assert "BoltGRPOTrainer" in done.stdout


def test_without_trl_it_says_what_to_install() -> None:
    done = run(
        """
import importlib.metadata
from bolt_ray.core.errors import EnvironmentProblem
found = importlib.metadata.Distribution.from_name
def none(name):
    if name == "trl":
        raise importlib.metadata.PackageNotFoundError(name)
    return found(name)
importlib.metadata.Distribution.from_name = none
try:
    import bolt_ray.integrations.trl
except EnvironmentProblem as problem:
    print(problem)
""",
        "trl",
    )
    assert done.stdout.strip() == (
        "bolt_ray.integrations.trl needs TRL, which is not installed: pip install 'bolt-ray[trl]'"
    ), done.stderr
