"""Command lines, and lists of what there is."""
