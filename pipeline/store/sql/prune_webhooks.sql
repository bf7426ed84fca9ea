-- The oldest events that nobody asks for any more, `most` at a time. One of a dead letter stays longer, or it would be
-- told of again while that is in Redis. Without a receiver (`is_unused`) those go too that have been due for long, unless
-- somebody else has tried to deliver any.
DELETE FROM webhook_outbox WHERE event_id IN (
    SELECT event_id FROM webhook_outbox
    WHERE created_at < now() - %(days)s * interval '1 day' AND (
        (delivered_at < now() - %(days)s * interval '1 day'
         AND (type <> %(dead_letter)s OR created_at < now() - %(long_days)s * interval '1 day'))
        OR (next_attempt_at IS NULL AND delivered_at IS NULL AND created_at < now() - %(long_days)s * interval '1 day')
        OR (%(is_unused)s AND tried_since IS NULL AND next_attempt_at < now() - %(days)s * interval '1 day'
            AND NOT EXISTS (SELECT FROM webhook_outbox WHERE tried_since IS NOT NULL)))
    ORDER BY created_at LIMIT %(most)s)
