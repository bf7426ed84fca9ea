-- w1 is in almost every text, w20000 in one of 5,000. Four segments of ten words are drawn from 100,000 such.
SELECT setseed(0.5);
CREATE TEMP TABLE phrases AS
SELECT id, (SELECT string_agg('w' || floor(20000 ^ random())::int, ' ')
            FROM generate_series(1, 10 + 0 * id)) AS text
FROM generate_series(0, 99999) AS id;
-- One in ten recordings is of Chinese, one in fifty of words with accents.
INSERT INTO phrases
SELECT 100000 + id, (SELECT string_agg(chr(19968 + floor(5000 ^ random())::int), '')
                     FROM generate_series(1, 15 + 0 * id)) AS text
FROM generate_series(0, 19999) AS id;
INSERT INTO phrases
SELECT 120000 + id, (SELECT string_agg('é' || floor(20000 ^ random())::int, ' ')
                     FROM generate_series(1, 10 + 0 * id)) AS text
FROM generate_series(0, 9999) AS id;
CREATE UNIQUE INDEX ON phrases (id);
ANALYZE phrases;
CREATE TEMP TABLE drawn AS
SELECT id, first + floor(number * random())::int AS a, first + floor(number * random())::int AS b,
       first + floor(number * random())::int AS c, first + floor(number * random())::int AS d
FROM (SELECT id, CASE WHEN id %% 10 = 5 THEN 100000 WHEN id %% 50 = 6 THEN 120000 ELSE 0 END AS first,
             CASE WHEN id %% 10 = 5 THEN 20000 WHEN id %% 50 = 6 THEN 10000 ELSE 100000 END AS number
      FROM generate_series(1, %(rows)s) AS id) AS kinds;
INSERT INTO audio_files (audio_id, batch_id, original_filename, status, duration_seconds, language, languages,
                         created_at, updated_at, s3_opus_path, recorded_at, recorded_from, metadata)
SELECT id, to_char(made, 'YYYYMMDD') || '-' || lpad((id / 1000)::text, 6, '0'), 'call' || id || '.mp3', 'done', 20,
       language,
       CASE WHEN id %% 2000 = 11 THEN ARRAY[language, 'cy'] WHEN id %% 50 = 3 THEN ARRAY[language, 'es', 'pt']
            ELSE ARRAY[language] END,
       made, made, 'processed/' || to_char(made, 'YYYY-MM-DD') || '/' || id || '.opus',
       made - interval '1 hour', 'sidecar',
       jsonb_build_object('talkgroup', 1000 + floor(2000 ^ (sin(id) ^ 2))::int, 'frequency', 851000000 + id %% 40,
                          'emergency', id %% 5000 = 9)
FROM (SELECT id, %(ended)s - (%(rows)s - id) * interval '1 year' / %(rows)s AS made,
             CASE WHEN id %% 1000 = 0 THEN 'sw' WHEN id %% 10 = 5 THEN 'zh' WHEN id %% 100 = 1 THEN 'fr' WHEN id %% 10 = 2 THEN 'de'
                  ELSE 'en' END AS language
      FROM drawn) AS files;
DROP INDEX transcripts_by_word, passages_by_word;
INSERT INTO transcripts (audio_id, text, segments, model)
SELECT drawn.id, concat_ws(' ', a.text, b.text, c.text, d.text, extra),
       jsonb_build_array(jsonb_build_object('start', 0, 'end', 5, 'text', a.text),
                         jsonb_build_object('start', 5, 'end', 10, 'text', b.text),
                         jsonb_build_object('start', 10, 'end', 15, 'text', c.text),
                         jsonb_build_object('start', 15, 'end', 20, 'text', concat_ws(' ', d.text, extra))),
       'bench'
FROM (SELECT *, CASE WHEN id = %(rows)s / 3 THEN 'needle' WHEN id <= %(rows)s / 10 THEN 'yesteryear' END AS extra
      FROM drawn) AS drawn
JOIN phrases AS a ON a.id = drawn.a JOIN phrases AS b ON b.id = drawn.b
JOIN phrases AS c ON c.id = drawn.c JOIN phrases AS d ON d.id = drawn.d;
UPDATE transcripts SET text = long.text, segments = long.segments
FROM (SELECT of.id, string_agg(phrases.text, ' ' ORDER BY phrases.id) || ' meeting' AS text,
             jsonb_agg(jsonb_build_object('start', 4 * (phrases.id %% 900), 'end', 4 * (phrases.id %% 900) + 4,
                                          'text', phrases.text, 'language', 'en', 'confidence', 0.9,
                                          'words', spoken.words) ORDER BY phrases.id)
             || jsonb_build_array(jsonb_build_object('start', 3600, 'end', 3601, 'text', 'meeting')) AS segments
      FROM (SELECT %(rows)s - 3 * n AS id, n
            FROM generate_series(0, least(%(long)s, %(rows)s / 10) - 1) AS n) AS of
      JOIN phrases ON phrases.id BETWEEN 400 * of.n AND 400 * of.n + 899
      CROSS JOIN LATERAL (
          SELECT jsonb_agg(jsonb_build_object('start', place, 'end', place + 0.25, 'word', word,
                                              'probability', 0.9)) AS words
          FROM unnest(string_to_array(phrases.text, ' ')) WITH ORDINALITY AS each(word, place)
      ) AS spoken
      GROUP BY of.id) AS long
WHERE audio_id = long.id;
-- As the workers make them of text like this; those of an hour make_rows has made by the code itself.
INSERT INTO passages SELECT audio_id, 0, 0, to_tsvector('simple', translate(text, 'é', 'e'))
FROM transcripts WHERE length(text) < 1000 AND audio_id %% 10 <> 5;
INSERT INTO passages
SELECT audio_id, 0, 0, array_to_string(ARRAY(
    SELECT quote_literal(substr(parts.part, place, 2)) || ':' || (nth - 1) * 15 + place
    FROM regexp_split_to_table(text, ' ') WITH ORDINALITY AS parts(part, nth),
         generate_series(1, length(parts.part)) AS place), ' ')::tsvector
FROM transcripts WHERE length(text) < 1000 AND audio_id %% 10 = 5;
UPDATE transcripts SET indexed_at = created_at, folded_at = created_at WHERE length(text) < 1000;
INSERT INTO classifications
SELECT id, 'content', CASE WHEN id %% 20 = 3 THEN 'silence' ELSE 'speech' END, 0.9 FROM drawn;
INSERT INTO classifications SELECT id, 'audio_tag', 'Siren', 0.4 FROM drawn WHERE id %% 200 = 4;
INSERT INTO classifications SELECT id, 'audio_tag', 'Chainsaw', 0.4 FROM drawn WHERE id %% 20000 = 5;
INSERT INTO batches (batch_id, s3_key, file_count, host, opened_at, finished_at)
SELECT batch_id, 'archives/' || batch_id || '.tar', count(*), 'gpu-001', min(created_at), max(created_at)
FROM audio_files GROUP BY batch_id;
UPDATE audio_files SET status = 'failed', error = 'no sound in it, kind ' || audio_id %% 13, updated_at = now()
WHERE audio_id %% 100 = 7;
SET maintenance_work_mem = '256MB';
CREATE INDEX transcripts_by_word ON transcripts USING gin (words);
CREATE INDEX passages_by_word ON passages USING gin (words);
DROP TABLE phrases, drawn;
