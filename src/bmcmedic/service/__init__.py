"""What a daemon of ours is made of: settings, log, signals, supervision, and how threads wait."""
