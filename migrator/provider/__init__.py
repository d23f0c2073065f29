"""Floor 1: the OpenAI-compatible endpoint: requests, answers, refusals."""
