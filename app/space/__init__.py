"""From spaces.yaml to a running Space. Knows the Hub and the settings."""
