"""Training and test data: sources of records, the catalogue of known sets, packing, rendered scenes, the loader."""
