"""Hold the two tables to be the same, and make one of them."""


def lines(folder):
    """Return the lines of all files of a directory, sorted: neither engine promises an order."""
    parts = [path for path in folder.iterdir() if path.name.startswith("part")]
    return sorted(line for part in parts for line in part.read_text(encoding="utf-8").splitlines())


def run(beam, spark, delays, flights):
    """Write the table that both made to ``delays``; fail where they differ, or where flights are missing."""
    ours, theirs = lines(beam), lines(spark)
    if ours != theirs:
        only = sorted(set(ours) ^ set(theirs))
        raise SystemExit(f"Beam has {len(ours)} groups and Spark {len(theirs)}; the first that one of them lacks: {only[:3]}")
    counted = sum(int(line.split(",")[5]) for line in ours)
    if counted != flights:
        raise SystemExit(f"the groups have {counted} flights, and {flights} were read")
    delays.write_text("\n".join(["fold,month,hour,origin,carrier,flights,arrived,delay", *ours, ""]), encoding="utf-8")
    print(f"Beam and Spark agree on {len(ours)} groups of {counted} flights")
    return {"groups": len(ours), "flights": counted}
