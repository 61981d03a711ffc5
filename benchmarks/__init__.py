"""The budgets, measured: every figure is a ratio to something that ran in turn with it, or a size."""
