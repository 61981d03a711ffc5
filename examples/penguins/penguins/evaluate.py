"""Measure the classifier on the rows it has not seen."""

import json
from collections import Counter

from penguins import tables
from penguins.model import probabilities, standardise


def run(table, model, report, loss, at_least=0.0):
    """Write metrics.json and predictions.csv into the directory ``report``; fail below the accuracy ``at_least``."""
    fitted = json.loads(model.read_text(encoding="utf-8"))
    rows = tables.read(table)
    tests = [row for row in rows if row["split"] == "test"]
    for row in tests:
        chances = probabilities(fitted["weights"], standardise(row, fitted))
        row["predicted"] = fitted["classes"][chances.index(max(chances))]

    commonest = Counter(row["species"] for row in rows if row["split"] == "train").most_common(1)[0][0]
    metrics = {
        "accuracy": round(sum(row["predicted"] == row["species"] for row in tests) / len(tests), 4),
        "baseline": round(sum(row["species"] == commonest for row in tests) / len(tests), 4),
        "rows": len(tests),
        "train_loss": loss,
    }
    report.mkdir()
    (report / "metrics.json").write_text(json.dumps(metrics, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    tables.write(report / "predictions.csv", tests, ["species", "predicted", *fitted["features"]])
    print(f"accuracy {metrics['accuracy']} on {len(tests)} held-out rows (always {commonest}: {metrics['baseline']})")
    if metrics["accuracy"] < at_least:
        raise SystemExit(f"accuracy {metrics['accuracy']} is below {at_least}")
    return metrics
