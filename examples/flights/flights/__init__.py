"""The steps of the flights pipeline: functions of paths, URLs and plain values. Nothing here knows zen-runner."""
