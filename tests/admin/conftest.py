from tests.signer.conftest import empty_home

__all__ = ["empty_home"]
