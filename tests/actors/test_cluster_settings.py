"""Settings of the cluster that cannot be together."""

from __future__ import annotations

import pytest

from bolt_ray.actors.settings import ClusterSettings
from bolt_ray.core.settings import SettingError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_generators": 2, "min_generators": 3}, "min_generators 3 is above num_generators 2"),
        ({"num_generators": 2, "max_generators": 1}, "max_generators 1 is below num_generators 2"),
        (
            {"tensor_parallel_size": 2, "gpus_per_generator": 0.5},
            "gpus_per_generator 0.5 beside tensor_parallel_size 2: each part",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(settings: dict[str, float], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        ClusterSettings(**settings)  # type: ignore[arg-type]


def test_one_generator_of_each_size_is_the_same_number() -> None:
    ClusterSettings(num_generators=2, min_generators=2, max_generators=2, tensor_parallel_size=2)
    ClusterSettings(gpus_per_generator=0.5)
