"""The oracle's way in for whoever speaks HTTP: CI jobs, repository managers, runners without gpg.

It decides nothing itself: who is let in is `agentproxy.oracle.reception`'s business, signatures are
`agentproxy.oracle.signing`'s. Imported only when oracle.yaml asks for it.
"""
