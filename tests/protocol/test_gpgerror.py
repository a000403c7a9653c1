import ctypes
import ctypes.util

import pytest

from agentproxy.protocol.gpgerror import GpgError, err_line


@pytest.mark.parametrize("error", GpgError)
def test_every_code_says_what_the_library_of_gpg_says(error: GpgError) -> None:
    library = ctypes.CDLL(ctypes.util.find_library("gpg-error") or "libgpg-error.so.0")
    library.gpg_strerror.restype = ctypes.c_char_p
    library.gpg_strsource.restype = ctypes.c_char_p

    assert library.gpg_strerror(error.value).decode() == error.text
    assert library.gpg_strsource(error.value) == b"GPG Agent"


def test_an_error_line_has_the_form_of_the_real_agent() -> None:
    assert err_line(GpgError.NO_SECKEY) == b"ERR 67108881 No secret key <GPG Agent>\n"
    assert err_line(GpgError.CONNECTION_REFUSED) == b"ERR 67141657 Connection refused <GPG Agent>\n"
