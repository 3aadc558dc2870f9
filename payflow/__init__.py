"""PayFlow's kernel: what every app stands on. It imports no app."""
