"""The rules that the workers share. Nothing here reads the environment: callers pass what is needed."""
