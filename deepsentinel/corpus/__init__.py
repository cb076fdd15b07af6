"""The corpus format: a GeoParquet index beside sharded Zarr arrays; write, read, convert, verify."""
