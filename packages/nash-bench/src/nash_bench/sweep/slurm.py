"""What a sweep on Slurm needs to know of the cluster."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

_STATUS_COMMAND = "--slurm-status-command"


def status_options(engine_options: Sequence[str]) -> list[str]:
    """Return the options by which Snakemake learns how jobs ended, where those given do not say.

    It asks `sacct` wherever that is installed; without accounting `sacct` answers nothing, and jobs that failed would
    go unnoticed until `squeue` has forgotten them. So `sacct` is tried once.
    """
    if any(option.partition("=")[0] == _STATUS_COMMAND for option in engine_options):
        return []
    try:
        has_accounting = not subprocess.run(["sacct"], capture_output=True, check=False).returncode
    except OSError:
        has_accounting = False
    return [] if has_accounting else [_STATUS_COMMAND, "squeue"]
