"""What stands around the programs where they are used: packages, containers, front ends."""
