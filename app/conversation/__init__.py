"""One turn: checks, notices, answer, record, rating; limits and counts of it. Knows no Gradio and no HTTP."""
