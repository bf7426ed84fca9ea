-- What the tags of a file say of it: their time counts before all but a sidecar's, and of a day alone the time that is
-- known by then, if it is on that day; their fields count after those that are known.
UPDATE audio_files
SET recorded_at = CASE WHEN known.stays THEN recorded_at ELSE %(at)s END,
    recorded_from = CASE WHEN known.stays THEN recorded_from ELSE 'tag' END,
    metadata = nullif(%(metadata)s::jsonb || coalesce(metadata, '{}'), '{}')
FROM (
    SELECT audio_id, %(at)s::timestamptz IS NULL OR recorded_from = 'sidecar'
        OR (recorded_at >= %(at)s AND recorded_at < %(until)s) AS stays
    FROM audio_files WHERE audio_id = %(audio_id)s
) AS known
WHERE audio_files.audio_id = known.audio_id
