"""What is to be done with a group, decided from its listing alone, and what that costs. Pure."""
