"""`captionmill report` and `captionmill explain`: pages to look at, each one file without a network."""
