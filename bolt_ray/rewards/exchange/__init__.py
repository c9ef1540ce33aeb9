"""Tests call a program that runs in another process; see ``peer.py``."""
