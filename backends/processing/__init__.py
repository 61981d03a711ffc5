"""Where the workers of a step's Beam or Spark job run."""
