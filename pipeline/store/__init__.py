"""PostgreSQL: what is written of a recording, and how it is found again."""
