"""HTTP: one list of routes and middleware, the API in OpenAI's format, login, guards. Knows everything below."""
