"""What a daemon of ours needs of the operating system: configuration, logs, sockets, systemd, TLS."""
