"""What a run leaves on disk or an object store: its folder, checkpoints, metrics; and what a terminal shows."""
