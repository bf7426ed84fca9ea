-- What a list shows of files, in the order of their ids given: everything that is known of them but what was heard.
SELECT f.audio_id, f.batch_id, f.original_filename, f.status, f.error, f.duration_seconds, f.language,
       coalesce(f.languages, array_remove(ARRAY[f.language], NULL)) AS languages, coalesce(f.channels, 1) AS channels,
       f.created_at, f.updated_at, f.recorded_at, f.recorded_from, f.metadata, f.warnings, f.s3_opus_path,
       coalesce((SELECT json_agg(json_build_object('classifier', classifier, 'label', label, 'score', score)
                                 ORDER BY classifier, score DESC, label)
                 FROM classifications AS c WHERE c.audio_id = f.audio_id), '[]') AS labels,
       EXISTS (SELECT FROM transcripts AS t WHERE t.audio_id = f.audio_id) AS has_transcript, b.archive_path
FROM unnest(%(audio_ids)s::bigint[]) WITH ORDINALITY AS found(audio_id, place)
JOIN audio_files AS f USING (audio_id)
LEFT JOIN batches AS b ON b.batch_id = f.batch_id
ORDER BY found.place
