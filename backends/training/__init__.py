"""Training: where a step that trains runs."""
