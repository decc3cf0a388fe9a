"""What a person starts: the commands, the demo with its checkpoint, and how they print and exit."""
