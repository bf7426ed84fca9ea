-- The event that has been due for longest, for one of the workers: its next attempt is set before this one begins, so
-- that a worker which dies in it leaves the event to the others. The pause doubles from one attempt to the next.
UPDATE webhook_outbox AS o
SET attempts = o.attempts + 1, tried_since = coalesce(o.tried_since, now()),
    next_attempt_at = now() + least(%(first)s * 2 ^ least(o.attempts, 30), %(longest)s) * interval '1 second'
FROM (
    SELECT event_id FROM webhook_outbox
    WHERE next_attempt_at <= now() ORDER BY next_attempt_at LIMIT 1 FOR UPDATE SKIP LOCKED
) AS due
WHERE o.event_id = due.event_id
RETURNING o.event_id, o.type, o.data, o.created_at
