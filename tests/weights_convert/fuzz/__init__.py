"""Fuzzing of `weights_convert`: whatever a file holds, it converts or is refused with one clear line (see `run.py`)."""
