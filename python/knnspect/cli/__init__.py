"""The command line: one file a command.

``config``    settings that a user repeats, from a file
``main``      the commands, and what they have in common
``options``   options that are made from the parameters of a method
``places``    places for results, looked at before the work
``running``   warnings, errors and signals become lines and exit codes

Results go to standard output, everything else to standard error. Exit codes: 0, 1 (the work
failed), 2 (bad usage), 130 (interrupted), 143 and 129 (ended by SIGTERM or SIGHUP).
"""

from __future__ import annotations

from knnspect.cli.main import main

__all__ = ["main"]
