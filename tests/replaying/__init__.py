"""Tests of the replay of a program on sliced variables."""
