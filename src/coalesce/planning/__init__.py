"""What is to be done with a group, decided from its listing alone. Pure."""
