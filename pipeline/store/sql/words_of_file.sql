-- The words of a file, as the index of the search has them.
SELECT DISTINCT word
FROM passages CROSS JOIN unnest(tsvector_to_array(words)) AS said(word)
WHERE audio_id = %s
