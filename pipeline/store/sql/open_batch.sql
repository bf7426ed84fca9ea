-- A batch that is unpacked; a second delivery of one that is finished does not open it again. Where its archive came
-- from stays known when a copy without that is put in its place.
INSERT INTO batches (batch_id, s3_key, file_count, host, archive_path, archive_host, archive_bytes, archive_sha256)
VALUES (%(batch_id)s, %(s3_key)s, %(file_count)s, %(host)s, %(path)s, %(origin_host)s, %(size)s, %(sha256)s)
ON CONFLICT (batch_id) DO UPDATE
SET s3_key = excluded.s3_key, file_count = excluded.file_count, host = excluded.host,
    archive_path = coalesce(excluded.archive_path, batches.archive_path),
    archive_host = coalesce(excluded.archive_host, batches.archive_host),
    archive_bytes = excluded.archive_bytes, archive_sha256 = excluded.archive_sha256,
    archive_deleted_at = NULL  -- it is there: a deletion that was not carried out yet waits for the next time
