-- The created_at of the transcript of which the passages have their words without accents. Where it differs, as in rows
-- of code from before this file, they are still to be made: by `pipelinectl migrate`, or by a GPU worker meanwhile.
-- Code from before goes by indexed_at, which stays as it was. No default: the table is not rewritten.
ALTER TABLE transcripts ADD COLUMN IF NOT EXISTS folded_at TIMESTAMPTZ;
