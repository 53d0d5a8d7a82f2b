"""The adapter directory: its contract, its files, the Hub that carries it, its cards. Knows no model but what a check needs."""
