"""What of the scorer's environment a reward process is given."""

from __future__ import annotations

from bolt_ray.rewards.process.environment import reward_environment

MACHINE = {"PATH": "/bin", "LC_ALL": "C", "PYTHONPATH": "/code", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
SECRET = {"HF_TOKEN": "hf_x", "AWS_SECRET_ACCESS_KEY": "x", "RAY_AUTH_TOKEN": "x", "PYTHON_API_KEY": "x", "OWN": "x"}


def test_the_machines_variables_and_the_named_ones() -> None:
    environ = MACHINE | SECRET
    assert reward_environment([], environ) == MACHINE
    assert reward_environment(["OWN", "HF_TOKEN", "NOT_SET"], environ) == MACHINE | {"OWN": "x", "HF_TOKEN": "hf_x"}


def test_a_proxy_with_a_password_is_given_by_name_only() -> None:
    environ = {"http_proxy": "http://proxy:3128", "https_proxy": "http://me:hunter2@proxy:3128"}
    assert reward_environment([], environ) == {"http_proxy": "http://proxy:3128"}
    assert reward_environment(["https_proxy"], environ) == environ
