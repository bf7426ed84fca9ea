-- A batch that is unpacked; a second delivery of one that is finished does not open it again.
INSERT INTO batches (batch_id, s3_key, file_count, host)
VALUES (%(batch_id)s, %(s3_key)s, %(file_count)s, %(host)s)
ON CONFLICT (batch_id) DO UPDATE
SET s3_key = excluded.s3_key, file_count = excluded.file_count, host = excluded.host
