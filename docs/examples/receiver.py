"""A receiver of PayFlow's webhooks: it verifies, remembers, answers, and only then works.

pip install standardwebhooks
WEBHOOK_SECRET=whsec_... PORT=9000 DATABASE=webhooks.db python receiver.py
"""

import json
import os
import sqlite3
import sys
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook, WebhookVerificationError

BODY_BYTES_MAX = 1_000_000
DATABASE = os.environ.get("DATABASE", "webhooks.db")
webhook = Webhook(os.environ["WEBHOOK_SECRET"])
something_new = threading.Event()


def database():
    return closing(sqlite3.connect(DATABASE, timeout=10, isolation_level=None))


class Receiver(BaseHTTPRequestHandler):
    timeout = 10

    def do_POST(self):
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > BODY_BYTES_MAX:
            return self.answer(413)
        body = self.rfile.read(int(length))
        try:
            # The signature covers the bytes as they came; a timestamp more than 5 minutes off is refused.
            webhook.verify(body, dict(self.headers))
        except (WebhookVerificationError, ValueError):
            return self.answer(400)
        # On disk before the answer. A repeat has the same id: it is answered alike, and kept once.
        with database() as db:
            row = (self.headers["webhook-id"], self.headers["PayFlow-Sequence"], body.decode())
            db.execute("INSERT OR IGNORE INTO inbox (id, sequence, body) VALUES (?, ?, ?)", row)
        self.answer(204)
        something_new.set()
        return None

    def answer(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


def work():
    """Handle what has been received and not been handled, also before a crash; then wait for more."""
    while True:
        something_new.clear()
        with database() as db:
            todo = db.execute("SELECT id, body FROM inbox WHERE done = 0 ORDER BY sequence LIMIT 100")
            rows = todo.fetchall()
            for event_id, body in rows:
                db.execute("BEGIN IMMEDIATE")
                handle(db, json.loads(body))
                db.execute("UPDATE inbox SET done = 1 WHERE id = ?", (event_id,))
                db.execute("COMMIT")  # what it did and that it is done: both or neither
        if not rows:
            something_new.wait(timeout=60)


def handle(db, event):
    """Keep each transaction's newest state. A late event shows a shorter history: it is passed over."""
    transaction = event["data"]
    if "history" not in transaction:
        return  # webhook.test
    row = (transaction["id"], transaction["status"], len(transaction["history"]))
    is_news = db.execute(
        "INSERT INTO transactions (id, status, steps) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE"
        " SET status = excluded.status, steps = excluded.steps WHERE excluded.steps > steps",
        row,
    ).rowcount
    if is_news:
        sys.stdout.write(f"{transaction['id']} {transaction['status']}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    with database() as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute(
            "CREATE TABLE IF NOT EXISTS inbox"
            " (id TEXT PRIMARY KEY, sequence INTEGER, body TEXT, done INTEGER DEFAULT 0)"
        )
        db.execute(
            "CREATE TABLE IF NOT EXISTS transactions (id TEXT PRIMARY KEY, status TEXT, steps INTEGER)"
        )
    threading.Thread(target=work, daemon=True).start()
    ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "9000"))), Receiver).serve_forever()
