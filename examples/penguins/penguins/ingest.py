"""Take the published table in, all of it or some species."""

from penguins import tables

COLUMNS = ["species", "island", "bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g", "sex", "year"]


def run(source, raw, species="all"):
    """Copy the rows of ``species`` ("all", or a list of names) from ``source`` to ``raw``."""
    rows = tables.read(source)
    if not rows or list(rows[0]) != COLUMNS:
        raise SystemExit(f"{source}: the columns should be {', '.join(COLUMNS)}")
    if species != "all":
        unknown = sorted(set(species) - {row["species"] for row in rows})
        if unknown:
            raise SystemExit(f"{source}: no rows of {', '.join(unknown)}")
        rows = [row for row in rows if row["species"] in species]
    tables.write(raw, rows, COLUMNS)
    print(f"ingested {len(rows)} rows")
    return {"rows": len(rows), "species": sorted({row["species"] for row in rows})}
