-- What `pipelinectl search` reads. The words of a transcript are kept with it: found once, they are compared with a
-- search as often as one looks, without parsing the text anew.
ALTER TABLE transcripts ADD COLUMN IF NOT EXISTS words tsvector GENERATED ALWAYS AS (to_tsvector('simple', text)) STORED;
DROP INDEX IF EXISTS transcripts_words;
CREATE INDEX IF NOT EXISTS transcripts_by_word ON transcripts USING gin (words);

-- The newest first, and what is rare among many files.
CREATE INDEX IF NOT EXISTS audio_files_created ON audio_files (created_at, audio_id);
CREATE INDEX IF NOT EXISTS audio_files_language ON audio_files (language, created_at);
CREATE INDEX IF NOT EXISTS classifications_by_label ON classifications (label, audio_id);
