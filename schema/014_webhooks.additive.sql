-- What the receiver of webhooks is to be told: written in the transaction of what it tells of, delivered by the unpack
-- workers (pipeline/operations/webhook_delivery.py). A row waits while it has a `next_attempt_at`; without one it was
-- delivered, or failed where it has no `delivered_at` either.
CREATE TABLE IF NOT EXISTS webhook_outbox (
    event_id        TEXT PRIMARY KEY,    -- the same at each attempt: the receiver knows by it what it has
    type            TEXT NOT NULL,
    data            JSONB NOT NULL,
    created_at      TIMESTAMPTZ NOT NULL DEFAULT now(),
    attempts        INTEGER NOT NULL DEFAULT 0,
    tried_since     TIMESTAMPTZ,         -- the first attempt, since a retry was asked for
    next_attempt_at TIMESTAMPTZ DEFAULT now(),
    delivered_at    TIMESTAMPTZ,
    error           TEXT                 -- of the last attempt
);
CREATE INDEX IF NOT EXISTS webhook_outbox_due ON webhook_outbox (next_attempt_at) WHERE next_attempt_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS webhook_outbox_created ON webhook_outbox (created_at);
