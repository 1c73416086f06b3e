"""The machine: how arithmetic runs and where bytes rest; never what they mean."""
