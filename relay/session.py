"""The conversation with one client, as a state machine that never waits."""
