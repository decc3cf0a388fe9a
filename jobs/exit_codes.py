"""How a command ends, beside 0 for done; README and `captionmill --help` say the same."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from jobs import inside, interrupt
from pipeline.errors import CaptionmillError, ClusterError, ConfigError
from pipeline.quality import caption_text

FAILED = 1  # the run failed, or its failure budget is spent
USAGE = 2  # a configuration or usage error
UNREACHED = 3  # the cluster did not answer, or refused: nothing is known of the run on it
INTERRUPTED = 130  # the same command goes on


@contextmanager
def exit_codes(console: Console) -> Iterator[None]:
    """Turn errors into messages and exit codes; SIGTERM counts as an interruption."""
    interrupt.listen()
    try:
        yield
    except ConfigError as error:
        for problem in error.problems:
            console.print(f"✗ {_shown(problem)}", markup=False)
        console.print("Mend this and start the same command again.")
        sys.exit(USAGE)
    except CaptionmillError as error:
        console.print(f"✗ {_shown(str(error))}", markup=False)
        sys.exit(UNREACHED if isinstance(error, ClusterError) else FAILED)
    except KeyboardInterrupt:
        again = shlex.join(["captionmill", *sys.argv[1:]])
        on = "submit it again to go on" if inside.a_job() else f"go on with: {again}"
        console.print(f"Interrupted. What is committed is kept; {on}", markup=False)
        sys.exit(INTERRUPTED)


def _shown(message: str) -> str:
    """A message, line by line safe for a terminal: it may quote names that strangers chose."""
    return "\n".join(caption_text(line) for line in message.splitlines())
