"""What a remote call raised arrives as the project's own error, with Ray's traceback behind it."""

from __future__ import annotations

import pytest
import ray
from ray.exceptions import GetTimeoutError, RayTaskError

from bolt_ray.actors.ray_results import cause_of, first_line, get_result
from bolt_ray.core.errors import ConfigError


@pytest.mark.ray
def test_own_errors_arrive_as_they_were_raised(ray_cluster: None) -> None:
    @ray.remote(num_cpus=0)
    def call(error: Exception | None) -> int:
        if error is not None:
            raise error
        return 5

    assert get_result(call.remote(None)) == 5
    assert get_result([call.remote(None), call.remote(None)], timeout_s=60.0) == [5, 5]
    for error in (ConfigError("rewards: no such file"), ValueError("num_shards is 0")):
        with pytest.raises(type(error)) as caught:
            get_result(call.remote(error))
        assert type(caught.value) is type(error)
        assert str(caught.value) == str(error)
        assert isinstance(caught.value.__cause__, RayTaskError), "the remote traceback is kept"
    with pytest.raises(RayTaskError) as other:
        get_result(call.remote(KeyError("x")))
    assert isinstance(cause_of(other.value), KeyError)
    assert first_line(other.value) == "KeyError: 'x'"


@pytest.mark.ray
def test_no_result_in_time(ray_cluster: None) -> None:
    @ray.remote(num_cpus=100_000)
    def never() -> None: ...

    with pytest.raises(GetTimeoutError):
        get_result(never.remote(), timeout_s=0.1)


def test_an_error_in_one_line() -> None:
    assert first_line(ValueError("\n  a is 3;\nb is 4")) == "ValueError: a is 3;"
    assert first_line(ValueError()) == "ValueError: "
    error = ValueError("x")
    assert cause_of(error) is error
