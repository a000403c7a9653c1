"""A TLS client that asks for new keys again and again, which Python's module cannot: OpenSSL through ctypes."""

import ctypes

__all__ = ["KeyChanger"]

_ssl, _crypto = ctypes.CDLL("libssl.so.3"), ctypes.CDLL("libcrypto.so.3")
for function in (_ssl.TLS_client_method, _ssl.SSL_CTX_new, _ssl.SSL_new, _crypto.BIO_s_mem, _crypto.BIO_new):
    function.restype = ctypes.c_void_p

UPDATE_REQUESTED = 1  # SSL_KEY_UPDATE_REQUESTED, ssl.h


class KeyChanger:
    """The client's side of one connection, without a certificate; bytes in, bytes out."""

    def __init__(self) -> None:
        context = ctypes.c_void_p(_ssl.SSL_CTX_new(ctypes.c_void_p(_ssl.TLS_client_method())))
        self._ssl = ctypes.c_void_p(_ssl.SSL_new(context))
        self._in, self._out = (ctypes.c_void_p(_crypto.BIO_new(ctypes.c_void_p(_crypto.BIO_s_mem()))) for _ in range(2))
        _ssl.SSL_CTX_free(context)
        _ssl.SSL_set_bio(self._ssl, self._in, self._out)
        _ssl.SSL_set_connect_state(self._ssl)

    def shake_hands(self, received: bytes) -> tuple[bytes, bool]:
        """What to send next, and whether the handshake is done."""
        _crypto.BIO_write(self._in, received, len(received))
        is_done = _ssl.SSL_do_handshake(self._ssl) == 1
        return self._written(), is_done

    def change_keys(self, times: int) -> bytes:
        """So many changes, each of which wants an answer."""
        for _ in range(times):
            assert _ssl.SSL_key_update(self._ssl, UPDATE_REQUESTED) == 1
            assert _ssl.SSL_do_handshake(self._ssl) == 1
        return self._written()

    def close(self) -> None:
        _ssl.SSL_free(self._ssl)

    def _written(self) -> bytes:
        buffer, parts = ctypes.create_string_buffer(65_536), list[bytes]()
        while (size := _crypto.BIO_read(self._out, buffer, len(buffer))) > 0:
            parts.append(buffer.raw[:size])
        return b"".join(parts)
