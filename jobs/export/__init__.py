"""`captionmill export`: the published table, or what changed in it since a run, in the shape that others load."""

FORMATS = ("jsonl", "opensearch", "webdataset", "huggingface", "lancedb")
