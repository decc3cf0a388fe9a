"""`captionmill bench`: what this machine does, beside its peers and its own limits."""

# The parts in the order in which they run, and their modules, each with
# measure(options: jobs.bench.subject.Options) -> jobs.bench.figure.Found.
PARTS = {
    "preprocessing": "jobs.bench.preprocessing",
    "reading": "jobs.bench.reading",
    "index": "jobs.bench.indexing",
    "planning": "jobs.bench.planning",
    "forecast": "jobs.bench.forecasting",
    "framework": "jobs.bench.framework",
    "generation": "jobs.bench.generation",
    "prompts": "jobs.bench.prompts",
}
BATCHES = (1, 8, 16)  # of generate, that we are measured beside
