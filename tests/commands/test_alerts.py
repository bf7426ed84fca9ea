"""pipelinectl alerts and webhooks: what the operator types, sees and pipes."""

import json

from pipeline.store.database import Database
from tests.commands.test_pipelinectl import Done, complaint, control, printed
from tests.store.test_alerts import write
from tests.store.test_webhook_outbox import put_event
from tests.support.child import free_port
from tests.support.fleet import Fleet
from tests.support.webhook_receiver import SECRET, WebhookReceiver

HOSTILE = "a\x1b[31m\u202e.mp3"


def refusal(done: Done) -> str:
    """What is said of the settings; no secret in it."""
    assert (done.returncode, done.stdout) == (2, "")
    assert "hunter2" not in done.stderr
    return done.stderr


def test_a_saved_search_is_added_shown_and_removed(fleet: Fleet, database: Database) -> None:
    said = printed(control(fleet, "alerts", "add", "fires", "fire brigade", "or", "smoke"))
    assert said == "each new transcript is compared with fires from now on\n"
    audio_id = write(fleet, database, HOSTILE, "one", "the fire brigade")
    title, columns, line = printed(control(fleet, "alerts")).splitlines()
    assert title == "alerts: 1"
    assert columns.split() == ["time", "search", "id", "original", "filename", "at", "excerpt"]
    assert line.split()[2:6] == ["fires", str(audio_id), "a\\x1b[31m\\u202e.mp3", "0:10"]
    assert line.endswith("the fire brigade")
    (alert,) = json.loads(printed(control(fleet, "alerts", "--search", "fires", "--since", "1h", "--json")))
    assert (alert["audio_id"], alert["start"], alert["original_filename"]) == (audio_id, 10.0, HOSTILE)
    (search,) = json.loads(printed(control(fleet, "alerts", "list", "--json")))
    assert (search["name"], search["words"], search["alerts"]) == ("fires", '"fire brigade" or smoke', 1)
    assert '"fire brigade" or smoke' in printed(control(fleet, "alerts", "list"))
    assert "say --yes" in complaint(control(fleet, "alerts", "remove", "fires"), 1)
    assert printed(control(fleet, "alerts", "remove", "fires", "--yes")) == "fires is removed\n"
    assert printed(control(fleet, "alerts")).splitlines()[0] == "alerts: 0"


def test_a_saved_search_that_cannot_be_read_is_shown_as_such(fleet: Fleet, database: Database) -> None:
    fleet.query("INSERT INTO saved_searches (name, words) VALUES ('broad', 'f*')")
    (search,) = json.loads(printed(control(fleet, "alerts", "list", "--json")))
    assert "too many words" in search["problem"]
    assert "unreadable: f* is the beginning" in " ".join(printed(control(fleet, "alerts", "list")).split())


def test_what_alerts_cannot_do_is_refused(fleet: Fleet, database: Database) -> None:
    printed(control(fleet, "alerts", "add", "fires", "fire"))
    for arguments, problem in (
        (["add", "fires", "smoke"], "already"),
        (["add", "x"], "it is `alerts add NAME WORDS`"),
        (["add", "x", "--", "-fire"], "needs a word"),
        (["add", "x", "!"], "needs a word"),
        (["add", "x\ny", "fire"], "name"),
        (["remove"], "it is `alerts remove NAME`"),
        (["remove", "fire"], "did you mean fires"),
        (["list", "fires"], "it is `alerts list`"),
        (["--search", "fire"], "did you mean fires"),
    ):
        assert problem in complaint(control(fleet, "alerts", *arguments), 2)


def test_webhooks_that_were_not_taken_are_shown_and_retried(fleet: Fleet) -> None:
    put_event(fleet, "e1", data='\'{"batch_id": "20250622-143052"}\'')
    put_event(fleet, "e2", next_attempt_at="NULL", error="'it answered with status 500'", attempts=30)
    put_event(fleet, "e3", next_attempt_at="NULL", delivered_at="now()")
    shown = printed(control(fleet, "webhooks"))
    assert shown.splitlines()[0] == "events (1 waiting, 1 delivered, 1 failed): 2"
    assert {line.split()[0] for line in shown.splitlines() if line.startswith("e")} == {"events", "e1", "e2"}
    assert shown.splitlines()[-1] == "WEBHOOK_URL is not set here"
    found = json.loads(printed(control(fleet, "webhooks", "--all", "--json")))
    assert found["numbers"] == {"waiting": 1, "delivered": 1, "failed": 1}
    assert [event["error"] for event in found["events"]].count("it answered with status 500") == 1
    states = {event["event_id"]: event["state"] for event in found["events"]}
    assert states == {"e1": "waiting", "e2": "failed", "e3": "delivered"}
    assert printed(control(fleet, "webhooks", "retry")) == "1 event will be delivered now\n"
    assert "1 id of no event" in complaint(control(fleet, "webhooks", "retry", "e9"), 2)
    assert printed(control(fleet, "webhooks", "retry", "e1", "e2")) == "2 events will be delivered now\n"
    assert "takes no ids" in complaint(control(fleet, "webhooks", "test", "e1"), 2)


def test_a_trial_of_the_receiver_says_whether_it_takes_events(fleet: Fleet) -> None:
    assert "WEBHOOK_URL is not set" in refusal(control(fleet, "webhooks", "test"))
    with WebhookReceiver(204, 401) as receiver:
        settings = {"WEBHOOK_URL": receiver.url, "WEBHOOK_SECRET": SECRET}
        said = printed(control(fleet, "webhooks", "test", **settings))
        (event,) = receiver.events("test")
        assert said == f"the receiver has taken event {event['id']}\n"
        said = complaint(control(fleet, "webhooks", "test", **settings), 1)
        assert said.endswith("it answered with status 401")
    nobody = {"WEBHOOK_URL": f"http://127.0.0.1:{free_port()}/secret-path", "WEBHOOK_SECRET": SECRET}
    said = complaint(control(fleet, "webhooks", "test", **nobody), 1)
    assert "secret" not in said


def test_a_url_without_a_secret_is_refused_and_not_shown(fleet: Fleet) -> None:
    wrong = {"WEBHOOK_URL": "https://example.com/hunter2", "WEBHOOK_SECRET": "short"}
    said = refusal(control(fleet, "webhooks", "test", **wrong))
    assert "WEBHOOK_SECRET must have 16 characters at least" in said
    assert "WEBHOOK_URL must be a URL" in refusal(
        control(fleet, "webhooks", "test", WEBHOOK_URL="ftp://hunter2", WEBHOOK_SECRET=SECRET)
    )
