"""How a command ends, beside 0 for done; README and `captionmill --help` say the same."""

FAILED = 1  # the run failed, or its failure budget is spent
USAGE = 2  # a configuration or usage error
INTERRUPTED = 130  # the same command goes on
