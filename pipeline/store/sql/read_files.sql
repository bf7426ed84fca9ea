SELECT f.audio_id, f.batch_id, f.original_filename, f.status, f.error, f.duration_seconds, f.language,
       coalesce(f.languages, array_remove(ARRAY[f.language], NULL)) AS languages,
       f.created_at, f.updated_at, f.s3_opus_path,
       coalesce(t.text, '') AS text, coalesce(t.segments, '[]') AS segments, coalesce(t.model, '') AS model,
       coalesce((SELECT json_agg(json_build_object('classifier', classifier, 'label', label, 'score', score)
                                 ORDER BY classifier, score DESC, label)
                 FROM classifications AS c WHERE c.audio_id = f.audio_id), '[]') AS labels,
       coalesce(f.channels, 1) AS channels, f.warnings,
       f.recorded_at, f.recorded_from, f.metadata, b.archive_path
FROM audio_files AS f
LEFT JOIN transcripts AS t USING (audio_id)
LEFT JOIN batches AS b ON b.batch_id = f.batch_id
