"""The environment of a reward process: what any program needs of its machine, and the variables named for its rewards.

A reward runs other people's code, and what it imports may send or print its environment. It is no wall against code
that looks for secrets on purpose: the process is of the scorer's user, with that user's files.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from bolt_ray.core.secrets import is_secret, masked_text

_NAMES = frozenset(
    "PATH HOME USER LOGNAME SHELL LANG LANGUAGE TZ TERM TMPDIR LD_LIBRARY_PATH VIRTUAL_ENV CONDA_PREFIX "
    "SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE "
    "HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY http_proxy https_proxy all_proxy no_proxy "
    "HF_HOME HF_HUB_CACHE HF_HUB_OFFLINE HF_ENDPOINT HF_DATASETS_CACHE TORCH_HOME".split()
)
_FAMILIES = (
    *("LC_", "PYTHON", "XDG_", "BOLT_RAY_", "TRANSFORMERS_", "TOKENIZERS_"),
    *("OMP_", "MKL_", "OPENBLAS_", "MALLOC_", "CUDA_", "NVIDIA_", "ROCR_", "HIP_", "PYTORCH_"),
)
"""How variables begin that say how the machine and its libraries are set up."""


def reward_environment(named: Collection[str], environ: Mapping[str, str]) -> dict[str, str]:
    """The variables a reward process gets of ``environ``.

    Args:
        named: the variables its rewards are given whatever they hold; one that is not set is left out.
        environ: of the scorer.
    """
    return {name: value for name, value in environ.items() if name in named or _is_harmless(name, value)}


def _is_harmless(name: str, value: str) -> bool:
    """Of the machine, and without a secret: a proxy's address may hold a password."""
    of_machine = name in _NAMES or name.startswith(_FAMILIES)
    return of_machine and not is_secret(name) and masked_text(value, environ={}) == value


def withheld_hint(text: str, given: Mapping[str, str], environ: Mapping[str, str]) -> str:
    """What to do when a reward failed and says a variable's name that its process was not given; "" if it says none."""
    said = set(re.findall(r"[A-Z][A-Z0-9_]{2,}", text))
    missing = sorted(said & (environ.keys() - given.keys()))
    return f"; a reward gets the environment variables named in `env`: [{', '.join(missing)}]" if missing else ""
