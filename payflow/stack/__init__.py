"""PayFlow on one machine: embedded servers, the supervised processes, the demo.

Nothing here imports Django or an app: the stack starts them as processes and speaks HTTP to them.
"""
