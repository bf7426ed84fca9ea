"""What an operator asks and does: status, failures, retry, reconcile."""
