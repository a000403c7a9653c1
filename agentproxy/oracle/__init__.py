"""The deciding daemon: who asks, what the policy allows, whose turn it is."""
