"""The demo: synthetic scenes, the tiny OneVision trained on them, and the sample shards they fill."""
