"""`blind-oracle dev`: oracle, signer, relay and one enrolled build server in one directory, for trying and testing.

Everything lies in the directory and runs under the caller's uid, so there is no isolation between the parts.
"""
