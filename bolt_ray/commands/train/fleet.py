"""What outlives a learner: the processes that the attempts of a run share."""

from __future__ import annotations

from contextlib import ExitStack

from bolt_ray.actors.generator_pool import GeneratorPool
from bolt_ray.actors.scorer_pool import ScorerPool
from bolt_ray.commands.shared.inference import launch_generators, start_scorers
from bolt_ray.commands.shared.inputs import RunInputs
from bolt_ray.config.schema import RunConfig


class Fleet:
    """The processes that outlive a learner: generators and scorers. A context that ends them."""

    # What the parts are made by.
    launch_generators = staticmethod(launch_generators)
    start_scorers = staticmethod(start_scorers)

    def __init__(self, config: RunConfig, inputs: RunInputs) -> None:
        self._config = config
        self._inputs = inputs
        self._generators: GeneratorPool | None = None
        self._scorers: ScorerPool | None = None

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as stack:
            for pool in (self._generators, self._scorers):
                if pool is not None:
                    stack.callback(pool.close)

    def generators(self, *, version: int) -> GeneratorPool:
        """Those of the attempt that begins at policy ``version``: launched, or what they did before forgotten."""
        if self._generators is None:
            self._generators = self.launch_generators(self._config, self._inputs, version=version)
        else:
            self._generators.reset(version)
        return self._generators

    def scorers(self) -> ScorerPool:
        """Those of the attempt that begins: started, or what they were given before forgotten."""
        if self._scorers is None:
            self._scorers = self.start_scorers(self._config, self._inputs)
        else:
            self._scorers.reset()
        return self._scorers
