-- What S3 has of files that were deleted, and is still to go: the deletion was cut short.
INSERT INTO pending_deletions (batch_id, audio_id, object_keys)
SELECT t.batch_id, t.audio_id, ARRAY[of.key, regexp_replace(of.key, '\.json$', '.opus')]
FROM unnest(%(audio_ids)s::bigint[], %(keys)s::text[]) AS of(audio_id, key)
JOIN tombstones AS t USING (audio_id)
WHERE NOT EXISTS (SELECT FROM pending_deletions AS p WHERE p.audio_id = t.audio_id AND of.key = ANY(p.object_keys))
