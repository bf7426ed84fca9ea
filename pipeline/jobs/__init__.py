"""Jobs of the queues and the batches that they belong to: claim, retry, settle, complete."""
