"""Checks a signature with the public key before gpg gets it."""
