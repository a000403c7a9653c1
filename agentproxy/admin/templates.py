"""The texts that `blind-oracle init` writes, with comments for the people who will change them."""

__all__ = [
    "ADDRESS_FILE",
    "KEYS",
    "ORACLE",
    "ORACLE_STARTS_SIGNER",
    "PEERS",
    "POLICY",
    "REGISTRY_DATABASE",
    "REGISTRY_FILE",
    "SIGNER",
    "SYSTEMD_STARTS_SIGNER",
]

# One of these two lines stands in oracle.yaml.
REGISTRY_FILE = "registry: {path}    # runners, and hashes of their tokens"
REGISTRY_DATABASE = "registry_database: {words}   # runners, and hashes of their tokens"

# Filled in by str.format; paths are relative to the file that they stand in, so the directory can be moved.
ORACLE = """\
# The oracle: it decides who gets a signature, and holds no key. Paths are relative to this file.
node: {node}
listen: {listen}
# What enrolment files tell build servers: host:port, each host a name in the server's certificate.
addresses: [{addresses}]
# The same of other oracles with this authority and registry; relays go to them when we are away.
other_oracles: [{others}]

tls:
  certificate: {tls}/server.crt
  key: {tls}/server.key
  authority: {tls}/authority.crt   # who issues the certificates of build servers

policy: policy.yaml
{registry}
certificates: {certificates}   # OpenPGP certificates, for relays to fetch

# http: {{listen: "0.0.0.0:7444"}}      # the HTTP API: docs/HTTP-API.md
# metrics: {{listen: "127.0.0.1:9464"}} # for Prometheus: docs/OPERATIONS.md

signer:
  socket: {run}/signer.sock
{signer}"""

ORACLE_STARTS_SIGNER = """\
  # `blind-oracle serve` starts the signer with this file, under its own uid: without isolation between the two.
  config: signer/signer.yaml
"""

SYSTEMD_STARTS_SIGNER = """\
  config: signer/signer.yaml   # for the commands, run by root
  start: false                 # systemd runs the signer, as another user
"""

ADDRESS_FILE = """\

address_file: {run}/oracle.address   # what the oracle listens on; its lock lies there, too
"""

SIGNER = """\
# The signer: it holds the keys and writes the audit log. It has no network. Paths are relative to this file.
node: {node}
socket: {run}/signer.sock
{peers}keys_file: keys.yaml
gnupg_home: {gnupg}
passphrases: passphrases            # one file for each protected key, named like the key

audit:
  directory: {audit}
  rotate_bytes: 67108864            # a segment is sealed before it becomes larger than this,
  rotate_days: 30                   # or when its first record is older
  key: audit.key                    # signs checkpoints; made when it is missing

authority:
  certificate: authority.crt
  key: authority.key
"""

PEERS = """\
peer_users: ["{user}"]   # who may ask, beside root
"""

KEYS = """\
# Which keys the signer serves, with which hash algorithms and accepted risks. The oracle cannot change it.
# `blind-oracle key import` adds entries.
keys: {}
"""

POLICY = """\
# Who may use which key. Keep this file in git and let somebody review each change; a running oracle takes a new
# version, whole or not at all, on SIGHUP.
#
# keys:
#   modern:
#     fingerprint: 0123456789ABCDEF0123456789ABCDEF01234567   # of the subkey that signs
#     type: modern                       # legacy, modern, or a word of your own
#     distributions: ["el9-*", "el10-*"] # left out: for any, and requests need not name one
#     hash_algorithms: [sha256, sha512]  # left out: sha256, sha384, sha512
#
# runners:
#   build-01:
#     keys: [modern]                     # names from above
#     rate: 20                           # signatures a second; left out: not limited
#     priority: normal                   # urgent, normal or bulk
#     networks: [10.1.0.0/16]            # where it may connect from; left out: anywhere
#     fallback: true                     # may sign with a key of its own while no oracle can; left out: it may not

keys: {}

runners: {}
"""
