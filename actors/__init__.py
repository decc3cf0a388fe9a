"""State on a worker: plain callables that a unit test calls directly and `pipeline.flow` runs as Ray actors."""
