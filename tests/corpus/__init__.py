"""Bad inputs with names, generated, each with what must become of it."""
