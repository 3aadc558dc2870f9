"""Failure drills: a real stack under load while everything it consists of is killed, again and again.

Nothing here imports an app. The load speaks HTTP, the faults are signals to processes, and what is judged in
the end is the clients' own record against what the API and the audit say is in the ledger.
"""
