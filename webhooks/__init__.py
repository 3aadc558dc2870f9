"""Webhooks: nothing yet. Deliveries to subscribers come later; their queue and worker exist already.

Meanwhile the worker `webhooks` of the Procfile, which also serves the queue `payflow-notifications`, runs the
continuous audit.
"""
