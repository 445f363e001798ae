"""Encoder, packed attention, heads: what turns a pack into losses."""
