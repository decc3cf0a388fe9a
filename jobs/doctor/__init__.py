"""Whether a cluster is fit for a job, before a GPU is held: every node tries what a run would ask of it."""
