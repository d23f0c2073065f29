"""Floor 2: the model that answers is watched through the run; what it wrote while it was another is taken back."""
