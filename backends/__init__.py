"""Where and how a pipeline runs: the vocabulary, the three roles, and the backends that fill them."""

__version__ = "0.1.0"
