-- What a search reads: the words of each passage, which is a row of segments of about a minute. A whole transcript is no
-- unit for it: PostgreSQL takes a megabyte of words at most, and of each word the first 256 places, so that a day of
-- speech could not be stored and half an hour not be searched for a phrase. pipeline/store/words.py says what a word is.
--
-- First the strongest lock that this file needs: taking it behind a weaker one deadlocks with whoever has one himself.
-- It is of transcripts alone: a worker that saves a result has audio_files locked by then.
LOCK TABLE transcripts IN ACCESS EXCLUSIVE MODE;

CREATE TABLE IF NOT EXISTS passages (
    audio_id BIGINT NOT NULL REFERENCES transcripts ON DELETE CASCADE,
    position INTEGER NOT NULL,           -- of its first segment in transcripts.segments, from 0
    start    DOUBLE PRECISION NOT NULL,  -- of that segment, in seconds
    words    TSVECTOR NOT NULL,          -- its words, and the first of the next passage
    PRIMARY KEY (audio_id, position)
);
CREATE INDEX IF NOT EXISTS passages_by_word ON passages USING gin (words);

-- The created_at of the transcript that the passages are of. Where it differs, as in rows from before this file and of
-- code from before it, the passages are still to be made: by `pipelinectl migrate`, or by a GPU worker meanwhile.
ALTER TABLE transcripts ADD COLUMN IF NOT EXISTS indexed_at TIMESTAMPTZ;
CREATE INDEX IF NOT EXISTS transcripts_to_index ON transcripts (audio_id) WHERE indexed_at IS DISTINCT FROM created_at;

-- The previous release searches transcripts.words, and must be able to store what does not fit there: 200,000
-- characters do, whatever they are. A release that no longer has to work beside it drops the column.
ALTER TABLE transcripts ALTER COLUMN words DROP EXPRESSION IF EXISTS;
CREATE OR REPLACE FUNCTION words_of_transcript() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.words := to_tsvector('simple', left(NEW.text, 200000));
    RETURN NEW;
END $$;
DROP TRIGGER IF EXISTS words_of_transcript ON transcripts;
CREATE TRIGGER words_of_transcript BEFORE INSERT OR UPDATE OF text ON transcripts
    FOR EACH ROW EXECUTE FUNCTION words_of_transcript();
