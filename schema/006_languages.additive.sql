-- All languages of a recording, the most spoken first; `language` is the first of them. NULL in rows from before this
-- column and where nothing was said: readers then take `language`. No default: the table is not rewritten.
ALTER TABLE audio_files ADD COLUMN IF NOT EXISTS languages TEXT[];

-- Of recordings with one language audio_files_language knows all; this index has the few others.
CREATE INDEX IF NOT EXISTS audio_files_languages ON audio_files USING gin (languages) WHERE cardinality(languages) > 1;

-- transcripts.segments is [{start, end, text, language, confidence, avg_logprob, no_speech_prob, words, mark, reason}],
-- times in seconds; `words` is [{start, end, word, probability}]; `mark` ('unintelligible' or 'repeated') and `reason`
-- only where a segment has them. Segments from before this file lack `language` and `confidence`, most also `words`.
-- pipeline/transcript.py says what each is.
