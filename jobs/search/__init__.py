"""`captionmill search`: full-text search over a published table, by an index in the user's cache folder."""
