"""The daemon on the runner: it speaks gpg-agent's protocol and holds no key."""
