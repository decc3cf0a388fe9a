"""Tests; their folders mirror the packages. Fixtures that several folders share are in `conftest.py`."""
