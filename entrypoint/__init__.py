"""What runs in (or as) the container: the command line, the supervisor and the shim beside the user's Python."""
