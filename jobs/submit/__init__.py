"""The same run as a Ray job: packed, submitted once however often it is asked for, followed to its end."""
