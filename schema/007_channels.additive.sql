-- How many channels the Opus has; NULL in rows from before this column: one.
ALTER TABLE audio_files ADD COLUMN IF NOT EXISTS channels SMALLINT;

-- What is damaged or missing in a recording that could be read: [{code, seconds, message}], seconds being those lost or
-- null. NULL: nothing. pipeline/file_warnings.py has the codes.
ALTER TABLE audio_files ADD COLUMN IF NOT EXISTS warnings JSONB;

-- Files with warnings are few: the newest of them, and those of a day.
CREATE INDEX IF NOT EXISTS audio_files_warned ON audio_files (updated_at, audio_id) WHERE warnings IS NOT NULL;

-- A segment of transcripts.segments has `channel` (from 1) where the recording has several; segments of all channels are
-- in the order of their start.
