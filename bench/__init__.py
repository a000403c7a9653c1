"""What is measured, and how: always beside a peer in the same run, since disks and processors differ."""
