"""What the tests have in common: servers, a fleet of workers, faults, data."""
