"""Floor 4: the Celery application: settings with their reasons, and tasks of a few lines."""
