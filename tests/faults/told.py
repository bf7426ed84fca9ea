"""Whether the receiver of webhooks was told of everything: each batch that is finished, each dead letter, and each
recording that fits a saved search."""

import redis

from pipeline.operations.webhook_delivery import ANNOUNCED
from tests.faults.checker import Findings
from tests.support.fleet import Fleet
from tests.support.recordings import WORDS
from tests.support.webhook_receiver import SECRET, WebhookReceiver

_UNTOLD_BATCHES = """
SELECT batch_id FROM batches AS b WHERE finished_at IS NOT NULL AND host <> '' AND NOT EXISTS (
    SELECT FROM webhook_outbox AS o WHERE o.type LIKE 'batch.%%' AND o.data ->> 'batch_id' = b.batch_id)
"""
_UNNOTICED_FILES = """
SELECT DISTINCT p.audio_id FROM passages AS p
WHERE NOT EXISTS (SELECT FROM alerts AS a WHERE a.audio_id = p.audio_id)
"""
_ALERTS = """
SELECT a.audio_id, count(o.event_id) FROM alerts AS a LEFT JOIN webhook_outbox AS o
    ON o.type = 'keyword.matched' AND (o.data ->> 'alert_id')::bigint = a.alert_id
GROUP BY a.audio_id, a.alert_id HAVING count(o.event_id) <> 1
"""


def settings(receiver: WebhookReceiver) -> dict[str, str]:
    """What the workers need to know of it."""
    return {"WEBHOOK_URL": receiver.url, "WEBHOOK_SECRET": SECRET}


def save_search(fleet: Fleet) -> None:
    """Wait for whatever is said in the samples."""
    words = sorted({word for said in WORDS.values() for word in str(said).split()})
    fleet.query("INSERT INTO saved_searches (name, words) VALUES ('any', %s)", " or ".join(words))


def hasten(fleet: Fleet) -> None:
    """What waits for its next attempt, or for the next look at the dead letters, need not wait on."""
    fleet.query("UPDATE webhook_outbox SET next_attempt_at = now() WHERE next_attempt_at IS NOT NULL")
    with redis.Redis.from_url(fleet.valkey.url) as client:
        client.delete(ANNOUNCED)


def check(fleet: Fleet, receiver: WebhookReceiver) -> Findings:
    """What it was not told of, or twice."""
    found = Findings()
    found.lost += [
        f"nobody is told that batch {batch_id} is finished" for (batch_id,) in fleet.query(_UNTOLD_BATCHES)
    ]
    found.lost += [
        f"file {audio_id} fits the saved search, without an alert" for (audio_id,) in fleet.query(_UNNOTICED_FILES)
    ]
    for audio_id, events in fleet.query(_ALERTS):
        (found.doubled if events else found.lost).append(f"an alert of file {audio_id} has {events} events")
    got = {event["id"] for event in receiver.events()}
    for event_id, kind, is_delivered in fleet.query(
        "SELECT event_id, type, delivered_at IS NOT NULL FROM webhook_outbox"
    ):
        if not is_delivered:
            found.stranded.append(f"event {event_id}, {kind}, is not delivered")
        elif event_id not in got:
            found.lost.append(f"event {event_id}, {kind}, was not received")
    told = {event["data"]["dead_letter_id"] for event in receiver.events("job.dead_lettered")}
    with redis.Redis.from_url(fleet.valkey.url) as client:
        dead = sum(client.llen(key) for key in client.keys("queue:*:dead"))
    if len(told) < dead:
        found.lost.append(f"the receiver was told of {len(told)} dead letters of {dead}")
    return found


def check_soon(fleet: Fleet, receiver: WebhookReceiver) -> Findings:
    """As `check`; what waits is asked for at once, for the next look."""
    hasten(fleet)
    return check(fleet, receiver)
