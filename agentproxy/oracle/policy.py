"""What the policy file says, and the decision that follows from it."""
