"""The steps, named in order; alembic finds them by their `revision`."""
