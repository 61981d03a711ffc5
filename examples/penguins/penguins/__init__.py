"""The steps of the penguins pipeline. Nothing here knows zen-runner: they are functions of paths and plain values."""
