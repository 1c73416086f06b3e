"""The machine: device, precision and compilation; files, locks and bookmarks; provenance."""
