"""What the real server does under load, against bad requests and when things break: `make reliability`. Not a part of `make test`."""
