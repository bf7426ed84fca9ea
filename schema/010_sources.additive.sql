-- Which archive a batch was, as it was brought. NULL in rows from before this file, until `pipelinectl migrate` has asked
-- S3 (an empty path: it knows nothing either). No default: the table is not rewritten.
ALTER TABLE batches ADD COLUMN IF NOT EXISTS archive_path TEXT;    -- on the EC2 host, or the file of `enqueue --local`
ALTER TABLE batches ADD COLUMN IF NOT EXISTS archive_host TEXT;    -- the EC2 host, or the machine that uploaded it
ALTER TABLE batches ADD COLUMN IF NOT EXISTS archive_bytes BIGINT; -- of the archive in S3
ALTER TABLE batches ADD COLUMN IF NOT EXISTS archive_sha256 TEXT;  -- of the archive in S3
