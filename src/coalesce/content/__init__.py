"""How a source's bytes become an output's bytes."""
