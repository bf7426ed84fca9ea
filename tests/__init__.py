"""The tests, the demo, and the real servers that both run on."""
