"""The registry's schema, step by step: each file in `versions` leads from one version to the next."""
