-- The batches of some files as their transcripts in S3 say; what the database knows of them stays. Deleted files count
-- no more. Such as are gone altogether have no batch.
INSERT INTO batches (batch_id, s3_key, file_count, host, opened_at,
                     archive_path, archive_host, archive_bytes, archive_sha256)
SELECT DISTINCT ON (f.batch_id) f.batch_id, b.s3_key,
       greatest(0, b.file_count - (SELECT count(*) FROM tombstones AS t
                                   WHERE t.batch_id = f.batch_id AND t.audio_id IS NOT NULL)),
       b.host, b.opened_at, b.archive_path, b.archive_host, b.archive_bytes, b.archive_sha256
FROM unnest(%(bodies)s::text[]) AS body
CROSS JOIN jsonb_to_record(body::jsonb) AS f(batch_id text, original_filename text, batch jsonb)
CROSS JOIN jsonb_to_record(f.batch) AS b(
    s3_key text, file_count int, host text, opened_at timestamptz,
    archive_path text, archive_host text, archive_bytes bigint, archive_sha256 text)
WHERE f.batch IS NOT NULL AND NOT EXISTS (
    SELECT FROM tombstones AS t WHERE t.batch_id = f.batch_id
    AND t.name_sha256 = encode(sha256(convert_to(f.original_filename, 'UTF8')), 'hex'))
ORDER BY f.batch_id, b.file_count DESC
ON CONFLICT (batch_id) DO UPDATE
SET file_count = greatest(batches.file_count, excluded.file_count),
    host = coalesce(nullif(batches.host, ''), excluded.host),
    opened_at = least(batches.opened_at, excluded.opened_at),
    archive_path = coalesce(nullif(batches.archive_path, ''), excluded.archive_path),
    archive_host = coalesce(batches.archive_host, excluded.archive_host),
    archive_bytes = coalesce(batches.archive_bytes, excluded.archive_bytes),
    archive_sha256 = coalesce(batches.archive_sha256, excluded.archive_sha256)
