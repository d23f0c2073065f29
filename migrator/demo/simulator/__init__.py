"""Floor 4: an OpenAI-compatible embeddings server with limits, refusals and a bill, on loopback."""
