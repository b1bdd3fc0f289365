"""What every daemon of ours needs: settings, log, signals, supervision, and waiting threads."""
