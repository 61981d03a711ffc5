"""Train the classifier: a program with its own command line, as a ``run`` step starts it."""

import argparse
import json
import math
import os

from penguins import model, tables


def main():
    """Read the table, fit on its training rows, write the model as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="the clean table")
    parser.add_argument("--rows", type=int, required=True, help="how many rows the clean step says it wrote")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--out", required=True, help="where to write the model")
    args = parser.parse_args()

    rows = tables.read(args.data)
    if len(rows) != args.rows:
        parser.error(f"{args.data} has {len(rows)} rows, not {args.rows}")
    features = [column for column in rows[0] if column not in ("split", "species")]
    rows = [row for row in rows if row["split"] == "train"]
    columns = [[float(row[feature]) for row in rows] for feature in features]
    mean = [math.fsum(column) / len(column) for column in columns]
    scale = [math.sqrt(math.fsum((x - m) ** 2 for x in column) / len(column)) for column, m in zip(columns, mean)]
    fitted = {"features": features, "mean": mean, "scale": scale, "classes": sorted({row["species"] for row in rows})}
    points = [model.standardise(row, fitted) for row in rows]
    weights, loss = model.fit(points, [row["species"] for row in rows], fitted["classes"], args.epochs)

    fitted["mean"] = [round(m, 6) for m in mean]
    fitted["scale"] = [round(s, 6) for s in scale]
    fitted["weights"] = [[round(w, 6) for w in row] for row in weights]
    with open(args.out, "w", encoding="utf-8") as file:
        json.dump(fitted, file, indent=1, sort_keys=True)
        file.write("\n")
    print(f"trained on {len(rows)} rows for {args.epochs} epochs: loss {loss:.4f}")

    if "ZEN_VALUES" in os.environ:  # what a function would return, a program writes here
        with open(os.environ["ZEN_VALUES"], "w", encoding="utf-8") as file:
            json.dump({"rows": len(rows), "loss": round(loss, 6)}, file)


if __name__ == "__main__":
    main()
