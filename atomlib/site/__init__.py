"""The reports as a static site."""
