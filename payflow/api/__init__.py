"""What every endpoint shares: strict input, one error format, cursors."""
