"""``bolt-ray validate``: everything that can be said of a config without starting anything."""

from __future__ import annotations

from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

from bolt_ray.commands.shared.gpus import resolve_here
from bolt_ray.commands.shared.inputs import check_inputs
from bolt_ray.commands.shared.resources import ProcessGroup, describe_step, resource_map, total_demand
from bolt_ray.config.loading import dump_config
from bolt_ray.config.own_code import check_own_code
from bolt_ray.config.schema import RunConfig


def print_validation(config: RunConfig, *, console: Console) -> None:
    """Print the resolved config, a step in words and the process map.

    Raises:
        UserError: a model directory or dataset file that the config names is missing, or settings that the
            learner or the generators would refuse, or a loss or strategy of the user's own cannot be loaded.
    """
    config = resolve_here(config)
    check_inputs(config, download=False)
    own_rewards = check_own_code(config)
    console.rule("resolved config")
    console.print(Syntax(dump_config(config), "yaml", background_color="default", word_wrap=True))
    console.rule("one step")
    console.print(describe_step(config), highlight=False, soft_wrap=True)
    for line in own_rewards:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    console.rule("processes")
    console.print(_table(resource_map(config)))


def _table(groups: list[ProcessGroup]) -> Table:
    table = Table("role", "count", "CPUs each", "GPUs each", "CPUs", "GPUs")
    for group in groups:
        table.add_row(
            group.role,
            str(group.count),
            f"{group.cpus:g}",
            f"{group.gpus:g}",
            f"{group.count * group.cpus:g}",
            f"{group.count * group.gpus:g}",
        )
    cpus, gpus = total_demand(groups)
    table.add_section()
    table.add_row("all", str(sum(group.count for group in groups)), "", "", f"{cpus:g}", f"{gpus:g}")
    return table
