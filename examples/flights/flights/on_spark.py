"""The delays of groups of flights, by Apache Spark."""

from pyspark.sql import functions as f


def run(spark, inputs, outputs, test_days):
    """Write a line for each fold, month, hour, airport and carrier."""
    flights = spark.read.csv(inputs["flights"], header=True, nullValue="NA")
    fold = f.when(f.col("day").cast("int") % test_days == 0, "test").otherwise("train")
    (
        flights.groupBy(fold.alias("fold"), "month", "hour", "origin", "carrier")
        .agg(
            f.count("*").alias("flights"),
            f.count("arr_delay").alias("arrived"),
            f.coalesce(f.sum(f.col("arr_delay").cast("long")), f.lit(0)).alias("delay"),
        )
        .write.csv(outputs["delays"])
    )
    return {"partitions": flights.rdd.getNumPartitions()}
