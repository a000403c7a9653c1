from tests.end_to_end.conftest import offline

__all__ = ["offline"]
