"""What crosses a boundary between relay, oracle and signer, and between gpg and relay. No I/O here."""
