"""Train a model of arrival delays on a table of groups, and say how much of the held-out days' variance it explains.

The delay of a group is a mean plus one effect each of its month, hour, airport and carrier, fitted in turns (backfitting), each
shrunk towards none by ``PRIOR`` flights.
"""

import argparse
import csv
import json
import os
import sys

EFFECTS = ("month", "hour", "origin", "carrier")
PRIOR = 200.0


def read(path):
    """Return the groups with any arrival: fold, levels of the effects, arrivals, mean delay in minutes."""
    with open(path, encoding="utf-8", newline="") as file:
        return [
            (row["fold"], [row[name] for name in EFFECTS], int(row["arrived"]), int(row["delay"]) / int(row["arrived"]))
            for row in csv.DictReader(file)
            if int(row["arrived"])
        ]


def predict(model, levels):
    """Return the delay of a group in minutes."""
    return model["mean"] + sum(model["effects"][name].get(level, 0.0) for name, level in zip(EFFECTS, levels))


def fit(groups, rounds):
    """Return the model of groups."""
    arrivals = sum(group[2] for group in groups)
    model = {"mean": sum(group[2] * group[3] for group in groups) / arrivals, "effects": {name: {} for name in EFFECTS}}
    for _ in range(rounds):
        for index, name in enumerate(EFFECTS):
            sums = {}
            for _fold, levels, count, delay in groups:
                level = levels[index]
                left = delay - predict(model, levels) + model["effects"][name].get(level, 0.0)
                total, weight = sums.get(level, (0.0, 0.0))
                sums[level] = total + count * left, weight + count
            model["effects"][name] = {level: total / (weight + PRIOR) for level, (total, weight) in sorted(sums.items())}
    return model


def explained(model, groups):
    """Return the share of the variance between groups that the model explains, weighted by arrivals."""
    arrivals = sum(group[2] for group in groups)
    mean = sum(group[2] * group[3] for group in groups) / arrivals
    before = sum(group[2] * (group[3] - mean) ** 2 for group in groups)
    return 1 - sum(group[2] * (group[3] - predict(model, group[1])) ** 2 for group in groups) / before


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--delays", required=True, help="the table")
    parser.add_argument("--model", required=True, help="where the model goes, as JSON")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--at-least", type=float, default=0.0, help="below this share of the variance, fail")
    args = parser.parse_args()
    groups = read(args.delays)
    model = fit([group for group in groups if group[0] == "train"], args.rounds)
    share = round(explained(model, [group for group in groups if group[0] == "test"]), 4)
    print(f"the model explains {share} of the variance of the held-out days' delays")
    with open(args.model, "w", encoding="utf-8") as file:
        json.dump(model, file, indent=1, sort_keys=True)
    if "ZEN_VALUES" in os.environ:
        with open(os.environ["ZEN_VALUES"], "w", encoding="utf-8") as file:
            json.dump({"explained": share}, file)
    if share < args.at_least:
        sys.exit(f"{share} is below {args.at_least}")


if __name__ == "__main__":
    main()
