"""Floor 4: embedded servers, a provider simulator, a corpus and live traffic: the main job, end to end."""
