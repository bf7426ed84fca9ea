-- Delete some alerts of a search, the oldest behind `after` first, and say which was the last: NULL where there was none.
WITH oldest AS (
    SELECT alert_id FROM alerts
    WHERE search_id = %(search_id)s AND alert_id > %(after)s
    ORDER BY alert_id LIMIT %(most)s
), gone AS (
    DELETE FROM alerts WHERE alert_id IN (SELECT alert_id FROM oldest)
)
SELECT max(alert_id) FROM oldest
