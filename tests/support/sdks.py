"""The platforms' client libraries, by the top-level name of their import."""

from __future__ import annotations

# Loaded only where a client is built: with the platform's client the start would take seconds, and its absence would break
# what does not need it.
SDKS = {
    "apache_beam",
    "azure",
    "boto3",
    "botocore",
    "docker",
    "google",
    "googleapiclient",
    "kfp",
    "kubernetes",
    "obstore",
    "pyspark",
    "requests",
}
