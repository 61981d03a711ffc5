"""Stop before training on numbers that can't be penguins."""

from penguins import tables


def run(raw, ranges):
    """Fail unless every measurement in ``raw`` is within its (lowest, highest) in ``ranges``, or missing."""
    odd = []
    rows = tables.read(raw)
    for line, row in enumerate(rows, start=2):  # line 1 is the header
        for column, (lowest, highest) in ranges.items():
            if row[column] != "NA" and not lowest <= float(row[column]) <= highest:
                odd.append(f"line {line}: {column} is {row[column]}, not within {lowest} to {highest}")
    if odd:
        raise SystemExit("\n".join(odd))
    print(f"checked {len(rows)} rows: all within range")
    return {"checked": len(rows)}
