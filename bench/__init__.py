"""Every claim about speed, runnable, beside the peer that it is measured against."""
