"""The whole way of a signature in front of the reader: `make demo`."""
