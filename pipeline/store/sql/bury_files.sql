-- The tombstones of some files.
INSERT INTO tombstones (batch_id, name_sha256, audio_id, source_sha256, archive_sha256)
SELECT f.batch_id, encode(sha256(convert_to(f.original_filename, 'UTF8')), 'hex'), f.audio_id, f.source_sha256,
       b.archive_sha256
FROM audio_files AS f LEFT JOIN batches AS b USING (batch_id)
WHERE f.audio_id = ANY(%(audio_ids)s::bigint[])
ON CONFLICT DO NOTHING
