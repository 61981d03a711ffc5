"""Orchestrators: who decides which step runs when, and launches it."""
