"""Coverage-guided fuzzing of the parsers that strangers can reach: `python -m tests.fuzz --seconds 60`."""
