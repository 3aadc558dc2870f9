"""Webhooks: who hears of what, and every delivery until it has arrived or is a dead letter.

An event becomes deliveries in `fanout`, before its transaction is let go. The worker `webhooks` serves one
endpoint after another in `turns`: it gives deliveries their places (`sequencing`), makes attempts
(`delivery`, over `transport`, with `signing`), and leaves alone who fails (`circuit`). Beat's `sweep` finds
whatever the messages (`nudge`) have missed. docs/webhooks.md tells owners and operators about it.
"""
