"""What everything else stands on: errors, logs, metrics, Redis, scratch, the GPU. It imports nothing above it."""
