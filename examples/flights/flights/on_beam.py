"""The delays of groups of flights, by Apache Beam."""

import apache_beam as beam
from apache_beam.metrics import Metrics

HEADER = (
    *("year", "month", "day", "dep_time", "sched_dep_time", "dep_delay", "arr_time", "sched_arr_time", "arr_delay"),
    *("carrier", "flight", "tailnum", "origin", "dest", "air_time", "distance", "hour", "minute", "time_hour"),
)


class Read(beam.DoFn):
    """A line of the table to its group, and to its flights, arrivals and minutes of delay."""

    def __init__(self, test_days):
        self.test_days = test_days
        self.cancelled = Metrics.counter("flights", "cancelled")

    def process(self, line):
        row = dict(zip(HEADER, line.split(",")))
        if row["dep_time"] == "NA":
            self.cancelled.inc()
        arrived = row["arr_delay"] != "NA"
        fold = "test" if int(row["day"]) % self.test_days == 0 else "train"
        group = fold, row["month"], row["hour"], row["origin"], row["carrier"]
        yield group, (1, int(arrived), int(row["arr_delay"]) if arrived else 0)


def add(rows):
    """Return the sums, column by column."""
    flights = arrived = delay = 0
    for row in rows:
        flights += row[0]
        arrived += row[1]
        delay += row[2]
    return flights, arrived, delay


def build(pipeline, inputs, outputs, test_days):
    """Add the transforms to the pipeline: a line for each fold, month, hour, airport and carrier."""
    (
        pipeline
        | beam.io.ReadFromText(inputs["flights"] + "/*.csv", skip_header_lines=1)
        | "Read" >> beam.ParDo(Read(test_days))
        | "Add" >> beam.CombinePerKey(add)
        | "Write a line" >> beam.Map(lambda found: ",".join(map(str, (*found[0], *found[1]))))
        | beam.io.WriteToText(outputs["delays"] + "/part", file_name_suffix=".csv")
    )
