"""Faults, on real workers and real servers: what is lost, doubled, stranded or leaked after them."""
