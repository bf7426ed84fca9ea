-- An Opus that came into S3 after its file was deleted.
INSERT INTO pending_deletions (batch_id, audio_id, object_keys)
SELECT batch_id, audio_id, ARRAY[%(key)s, regexp_replace(%(key)s, '\.opus$', '.json')]
FROM tombstones WHERE audio_id = %(audio_id)s
