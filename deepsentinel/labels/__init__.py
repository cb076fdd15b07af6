"""Label schemes: names, ids, colours and hierarchy, and how OpenStreetMap features become labels."""
