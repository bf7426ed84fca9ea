-- Which archives were opened and which are settled: what remains true when Redis forgets.
CREATE TABLE IF NOT EXISTS batches (
    batch_id    TEXT PRIMARY KEY,
    s3_key      TEXT NOT NULL,
    file_count  INTEGER NOT NULL,     -- audio files in the archive
    host        TEXT NOT NULL,        -- the host that unpacked it last
    opened_at   TIMESTAMPTZ NOT NULL DEFAULT now(),
    finished_at TIMESTAMPTZ           -- every file is done or failed
);

CREATE INDEX IF NOT EXISTS batches_unfinished ON batches (opened_at) WHERE finished_at IS NULL;
