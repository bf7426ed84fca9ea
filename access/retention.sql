-- What a PostgreSQL role needs beside access/postgresql.sql to delete recordings: that of the workers, where retention is
-- to be carried out (ARCHIVE_KEEP_DAYS, OPUS_KEEP_DAYS, TRANSCRIPT_KEEP_DAYS), or one of operators, for `pipelinectl
-- delete`. The owner of the tables applies it after each migrate, for one role at a time:
--
--     psql -v role=audio_pipeline -f access/retention.sql
--
-- What hangs on a file (transcript, labels, alerts) goes with its row. Holds can be placed with the workers' rights, and
-- be ended by the owner alone. In S3 it takes access/s3-retention-policy.json.
GRANT DELETE ON audio_files, pending_deletions TO :"role";
