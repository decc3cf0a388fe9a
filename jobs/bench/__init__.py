"""Figures of this machine, each measured side by side with what it is compared with."""
