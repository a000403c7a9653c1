"""Builds what people install: the relay as one file, Debian packages, RPMs."""
