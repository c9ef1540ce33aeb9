"""The error tree.

    BoltRayError
    ├── UserError             something a user can fix; exit code 2, shown without a traceback
    │   ├── ConfigError       a config file, an override or a combination of settings
    │   ├── DataError         a dataset file, a line or a column of it
    │   ├── ModelError        a model directory, a tokenizer or an adapter
    │   ├── CheckpointError   a run directory, a checkpoint or a warm-start file
    │   └── EnvironmentProblem  a missing library, too few resources, no sandbox
    └── RunError              our side failed; exit code 1
        ├── StallError        a wait passed its deadline
        ├── LearnerLostError  the learner's processes are gone; the last checkpoint is not
        ├── StorageError      a file could not be written: disk full, read-only; what was there before is unharmed
        ├── WeightSyncError   generator and learner could not be brought to one version
        └── UnhealthyTrainingError  too many bad steps or unscored completions in a row

Every error carries one message and nothing else, so that it survives pickling between Ray processes.
A message names the place (file, line, key) and what to do about it.
"""

from __future__ import annotations


class BoltRayError(Exception):
    """Base of every error the project raises on purpose."""


class UserError(BoltRayError):
    """Something the user can fix: exit code 2."""


class ConfigError(UserError):
    """A setting that is unknown, of the wrong type or impossible beside another."""


class DataError(UserError):
    """A dataset that cannot be read as it is."""


class ModelError(UserError):
    """A model directory, tokenizer or adapter that cannot be loaded."""


class CheckpointError(UserError):
    """A run directory, checkpoint or baseline file that cannot be used."""


class EnvironmentProblem(UserError):  # noqa: N818 - "EnvironmentError" is a builtin name
    """The machine or the installation lacks something the run needs."""


class RunError(BoltRayError):
    """The run failed on our side: exit code 1."""


class StallError(RunError):
    """A wait passed its deadline; the message names what was being waited for."""


class LearnerLostError(RunError):
    """A learner rank or its node is gone, stuck or being taken away: training goes back to the last checkpoint."""


class StorageError(RunError):
    """A file could not be written; what had been written before is as it was."""


class WeightSyncError(RunError):
    """Generator and learner could not be brought to the same weights."""


class UnhealthyTrainingError(RunError):
    """Training was stopped because going on would waste the run."""
