"""Rewards run in an isolated process with a time limit."""
