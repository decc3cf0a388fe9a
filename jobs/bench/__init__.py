"""`captionmill bench`: what this machine does, beside its peers and its own limits.

Each part is the module of its name, with `measure(options: jobs.bench.subject.Options) -> jobs.bench.figure.Found`.
"""

PARTS = ("preprocessing", "reading", "planning", "generation", "prompts")  # in the order in which they run
