"""From raw labelled rows to packs: sources, prepare, store, mixture, stream, packing, loader."""
