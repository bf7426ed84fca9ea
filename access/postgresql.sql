-- What the PostgreSQL role of the workers and of pipelinectl may do, all but `migrate`: that is the owner's of the
-- tables. The owner makes the role once (CREATE ROLE audio_pipeline LOGIN; then \password audio_pipeline in psql), and
-- applies this after each migrate. Nobody deletes recordings with these rights: see retention.sql.
GRANT SELECT, INSERT, UPDATE ON audio_files, transcripts, batches TO audio_pipeline;
GRANT SELECT, INSERT, DELETE ON classifications, passages, alerts TO audio_pipeline;
GRANT SELECT, INSERT, UPDATE, DELETE ON saved_searches, webhook_outbox, tokens TO audio_pipeline;
GRANT SELECT, INSERT ON audit, tombstones, pending_deletions, holds TO audio_pipeline;
GRANT SELECT ON schema_migrations TO audio_pipeline;
