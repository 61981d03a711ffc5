"""Keep the complete rows and say which of them are held out for the test."""

import random

from penguins import tables


def run(raw, table, features, test_share=0.25, seed=0):
    """Write the complete rows of ``raw`` to ``table``, each marked "train" or "test"."""
    rows = tables.read(raw)
    complete = [row for row in rows if "NA" not in [row[feature] for feature in features]]
    draw = random.Random(seed)  # noqa: S311  # random() of a seed is the same on every machine and version of Python
    for row in complete:
        row["split"] = "test" if draw.random() < test_share else "train"
    tables.write(table, complete, ["split", "species", *features])
    held_out = sum(row["split"] == "test" for row in complete)
    print(f"kept {len(complete)} complete rows of {len(rows)}, {held_out} of them for the test")
    return {"rows": len(complete), "dropped": len(rows) - len(complete), "test": held_out}
